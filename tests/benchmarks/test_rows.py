"""The numbers of the table, its file and its chart."""

import csv

import pytest
from PIL import Image

from benchmarks.chart import write_chart
from benchmarks.contender import Case, Job, parse_contender
from benchmarks.environment import describe_environment
from benchmarks.rows import COLUMNS, make_rows, write_csv
from keras_metaformer.benchmark.turns import Outcome

pytestmark = pytest.mark.backend_independent

CASE = Case("CAFormerS18", "inference", 4, "float32", "cpu", 224)
BACKENDS = ["tensorflow", "jax", "torch"]


def _outcome(label, seconds, status="ok", message=""):
    (contender,) = parse_contender(label, BACKENDS)
    return Outcome(
        Job(contender, CASE),
        status,
        message,
        {"build_s": 1.234, "compile_s": 5.0, "calls": 2, "versions": {"keras": "3.0"}},
        [
            {
                "seconds": each,
                "processor_seconds": 2 * each,
                "waiting_load": 0.0,
                "other_load": None,
            }
            for each in seconds
        ],
        {"peak_memory": 3 * 2**20, "peak_device_memory": None},
    )


OUTCOMES = [
    _outcome("ours@jax", [0.2, 0.1, 0.3]),
    _outcome("ours@torch", [0.4, 0.4, 0.4]),
    _outcome("stock@jax", [0.8, 0.2, 0.5]),
    _outcome("timm", [0.4, 0.2, 0.9]),
    _outcome("timm+compile", [0.1], "failed", "no compiler"),
    _outcome("roofline@jax", [0.1, 0.1, 0.1]),
]


def _rows(baseline):
    return {
        row["contender"]: row
        for row in make_rows(OUTCOMES, baseline, {"cpu": "a processor", "cores": 2})
    }


def test_numbers():
    row = _rows("timm")["ours@jax"]
    assert (row["median_ms"], row["min_ms"], row["max_ms"]) == (200, 100, 300)
    assert (row["q1_ms"], row["q3_ms"]) == (150, 250)
    assert row["images_per_s"] == 20
    assert row["baseline"] == "timm"
    assert row["ratio"] == 0.5
    assert row["paired_ratio"] == 0.5  # of 0.5, 0.5, 0.33
    assert row["roofline"] == "roofline@jax"
    assert row["roofline_ratio"] == 2
    assert row["memory_mib"] == 3
    assert row["processor_load"] == 2
    assert row["other_load"] is None
    assert row["times_ms"] == "200.000 100.000 300.000"
    assert (row["cpu"], row["keras"], row["timm"]) == ("a processor", "3.0", None)
    assert tuple(row) == COLUMNS


def test_baselines():
    stock = _rows("stock")
    assert stock["ours@jax"]["baseline"] == "stock@jax"
    assert stock["ours@jax"]["ratio"] == 0.4
    assert stock["ours@torch"]["ratio"] is None  # There is none on torch.
    # The fastest that matches; a contender that failed is none.
    assert {row["baseline"] for row in _rows("timm*").values()} == {"timm", None}
    assert _rows("*")["timm"]["baseline"] == "roofline@jax"


def test_a_contender_that_failed_has_a_row():
    row = _rows("timm")["timm+compile"]
    assert (row["status"], row["message"]) == ("failed", "no compiler")
    assert row["median_ms"] is None
    assert row["compile_s"] == 5


def test_one_repetition():
    (row,) = make_rows([_outcome("ours@jax", [0.25])], "ours@jax", {})
    assert row["q1_ms"] == row["median_ms"] == row["q3_ms"] == 250
    assert row["ratio"] == 1


def test_csv(tmp_path):
    path = tmp_path / "deep" / "results.csv"
    rows = list(_rows("timm").values())
    write_csv(rows, path)
    write_csv(rows, path)  # in place of the first
    assert [file.name for file in path.parent.iterdir()] == ["results.csv"]
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == list(COLUMNS)
    assert len(read) == 6
    assert read[0]["median_ms"] == "200.0"
    assert read[0]["other_load"] == ""


def test_csv_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_csv([{"unknown": 1}], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_chart(tmp_path):
    path = tmp_path / "chart.png"
    rows = make_rows(OUTCOMES, "timm", describe_environment())
    write_chart(rows, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 800
        colours = {colour for _, colour in image.convert("RGB").getcolors(2**24) or []}
    assert {(11, 110, 79), (209, 73, 91)} <= colours  # ours and timm
    assert list(tmp_path.iterdir()) == [path]


def test_chart_of_nothing(tmp_path):
    rows = make_rows([_outcome("ours@jax", [], "failed", "lost")], "timm", {})
    with pytest.raises(ValueError, match="at least one measured"):
        write_chart(rows, tmp_path / "chart.png")


def test_environment():
    found = describe_environment()
    assert set(found) <= set(COLUMNS)
    assert isinstance(found["cores"], int)
    assert found["cpu"]
    assert str(found["date"]).endswith("+00:00")
