"""`keras-metaformer weights`, on a cache of its own and without a network."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from keras_metaformer_lite.cli.weights import app
from keras_metaformer_lite.weights import cache, catalogue

pytestmark = pytest.mark.backend_independent


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("KERAS_METAFORMER_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def run(*arguments: str, status: int = 0, answer: str | None = None) -> Result:
    result = CliRunner().invoke(app, arguments, input=answer)
    assert result.exit_code == status, result.output
    return result


def fill(constructor: str, tag: str) -> Path:
    """Puts stand-ins for weights in the cache."""
    checkpoint = catalogue.find(constructor, tag)
    source = cache.hand_placed_path(checkpoint)
    source.parent.mkdir(parents=True)
    source.write_bytes(b"source of weights")
    return cache.ensure_source(checkpoint)


def test_list():
    fill("FFNet3", "imagenet_384")
    lines = run("list").stdout.splitlines()
    assert len(lines) == 1 + len(catalogue.all_checkpoints())
    row = next(line for line in lines if line.endswith("cached"))
    assert row.split() == "FFNet3 imagenet_384 384 1000 84.5 48.3 M cached".split()
    assert len(run("list", "ffnet3").stdout.splitlines()) == 1 + 3
    assert len(run("list", "GMLPB16").stdout.splitlines()) == 1
    assert len(run("list", "pool_former_s12").stdout.splitlines()) == 1 + 1
    wrong = run("list", "FFNet33", status=2)
    assert "FFNet3" in wrong.stderr
    assert wrong.stdout == ""


def test_list_as_json():
    fill("FFNet3", "imagenet_384")
    rows = json.loads(run("list", "ffnet3", "--json").stdout)
    assert {row["tag"] for row in rows if row["cached"]} == {"imagenet_384"}
    assert {row["constructor"] for row in rows} == {"FFNet3"}
    assert len(json.loads(run("list", "--json").stdout)) == len(
        catalogue.all_checkpoints()
    )


def test_fetch_takes_what_is_placed_by_hand(folder):
    # The default of a size without "imagenet".
    checkpoint = catalogue.find("FFNet4", "imagenet_384")
    refusal = run("fetch", "ffnet4", status=1).stderr
    hand_placed = cache.hand_placed_path(checkpoint)
    assert str(hand_placed) in refusal
    hand_placed.parent.mkdir(parents=True)
    hand_placed.write_bytes(b"source")
    assert run("fetch", "ffnet4").stdout.strip() == str(hand_placed)
    assert run("fetch", "FFNet4", "imagenet_384").stdout.strip() == str(hand_placed)


def test_fetch_of_what_nobody_published():
    assert "Nobody published" in run("fetch", "GMLPB16", status=2).stderr
    assert "Known: 'imagenet'" in run("fetch", "FFNet1", "x", status=2).stderr
    misspelt = run("fetch", "CAFormerS18", "imagenet384", status=2).stderr
    assert "Did you mean 'imagenet_384'" in misspelt
    run("fetch", "FFNet1", "--source", "elsewhere", status=2)


def test_path(folder):
    assert run("path").stdout.strip() == str(folder)
    assert "weights fetch" in run("path", "FFNet1", status=1).stderr
    path = fill("FFNet1", "imagenet")
    assert run("path", "ffnet1").stdout.strip() == str(path)


def test_verify():
    assert run("verify").stdout == ""
    good, bad = fill("FFNet1", "imagenet"), fill("FFNet2", "imagenet")
    assert run("verify").stdout.splitlines() == [f"ok {good}", f"ok {bad}"]
    bad.write_bytes(bad.read_bytes().replace(b"weights", b"WEIGHTS"))
    result = run("verify", status=1)
    assert result.stdout.splitlines() == [f"ok {good}"]
    assert bad.name in result.stderr
    run("verify", "FFNet1")
    run("verify", "FFNet2", "imagenet", status=1)


def test_clear():
    files = [fill("FFNet1", "imagenet"), fill("FFNet2", "imagenet")]
    records = [
        cache.record_path(catalogue.find(name, "imagenet"))
        for name in ("FFNet1", "FFNet2")
    ]
    assert str(records[0]) in run("clear", "FFNet1", "imagenet").stdout
    assert not records[0].exists()
    run("clear", answer="n\n", status=1)
    assert records[1].exists()
    run("clear", "--yes")
    assert not records[1].exists()
    assert all(file.exists() for file in files)  # they were placed by hand
