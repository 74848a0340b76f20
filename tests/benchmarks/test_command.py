"""`python -m benchmarks`, with real workers."""

import csv
import json

import keras
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app

BACKEND = keras.backend.backend()


def _run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.one_backend
def test_benchmark(tmp_path):
    table, chart = tmp_path / "results.csv", tmp_path / "results.png"
    result = _run(
        *("PoolFormerV2S12", "--backend", BACKEND, "--resolution", 32, "--batch", 2),
        *("-c", "ours", "-c", "roofline", "--baseline", "roofline", "--repetitions", 2),
        *("--minimum-seconds", 0, "--csv", table, "--chart", chart, "--json"),
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["contender"] for row in rows] == [
        f"ours@{BACKEND}",
        f"roofline@{BACKEND}",
    ]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    for row in rows:
        assert row["backend"] == BACKEND
        assert (row["batch"], row["resolution"]) == (2, 32)
        assert row["min_ms"] <= row["median_ms"] <= row["max_ms"]
        assert len(row["times_ms"].split()) == row["repetitions"] == 2
        assert row["keras"] == keras.__version__
        assert row["baseline"] == f"roofline@{BACKEND}"
    assert rows[1]["ratio"] == rows[1]["roofline_ratio"] == 1
    with table.open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["median_ms"] for row in written] == [
        str(row["median_ms"]) for row in rows
    ]
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert "round 2 of 2" in result.stderr


@pytest.mark.backend_independent
def test_a_contender_that_fails_is_in_the_table(tmp_path):
    # 16 pixels are too few for a hierarchical model; ConvNeXt needs 32, too.
    result = _run(
        *("PoolFormerV2S12", "-c", f"ours@{BACKEND}", "--resolution", 16),
        *("--batch", 1, "--repetitions", 1, "--csv", tmp_path / "results.csv"),
        *("--chart", tmp_path / "results.png"),
    )
    assert result.exit_code == 1
    assert "failed: ValueError: The input must be at least 32 pixels" in result.stdout
    assert "1 of 1 rows were not measured" in result.stderr
    assert "at least 32 pixels" in (tmp_path / "results.csv").read_text()
    assert not (tmp_path / "results.png").exists()


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NoFormerS12"], "Unknown model"),
        (["--backend", "theano"], "`backend` must be one of"),
        (["-c", "theirs"], "A contender must be one of"),
        (["--dtype", "int8"], "`dtype` must be one of"),
        (["--peer-python", "/no/python", "-c", "timm"], "Python interpreter"),
        (["--repetitions", "0"], "repetitions"),
    ],
)
def test_errors(arguments, message):
    result = _run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
