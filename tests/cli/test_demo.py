import json
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_metaformer.data.digits import Digits, load_digits
from keras_metaformer.demo import run
from keras_metaformer_lite.cli import app

FILES = {"digits.keras", "digits.tflite", "learning_curves.png", "digits.png"}


@pytest.fixture
def few_digits(monkeypatch) -> Digits:
    digits = load_digits()
    few = Digits(
        digits.train_images[:128],
        digits.train_labels[:128],
        digits.test_images[:40],
        digits.test_labels[:40],
    )
    monkeypatch.setattr(run, "load_digits", lambda *_, **__: few)
    return few


@pytest.mark.one_backend
def test_the_demo_trains_exports_and_compares(tmp_path, few_digits):
    folder = tmp_path / "new" / "folder"

    result = CliRunner().invoke(
        app, ["demo", "--json", "--epochs", "1", "--output", str(folder)]
    )

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {path.name for path in folder.iterdir()} == FILES
    assert report["backend"] == keras.backend.backend()
    assert report["held_out"] == 40
    assert report["agreement"] == 1.0
    assert report["largest_difference"] < 1e-4
    assert report["keras"]["accuracy"] == report["litert"]["accuracy"]
    assert report["litert"]["bytes"] == (folder / "digits.tflite").stat().st_size
    for name in ("learning_curves.png", "digits.png"):
        assert Image.open(folder / name).size[0] > 800

    images = few_digits.test_images.astype("float32")
    saved: Any = keras.saving.load_model(folder / "digits.keras")
    answers = np.asarray(saved.predict(images, verbose=0)).argmax(axis=-1)
    accuracy = np.mean(answers == few_digits.test_labels)
    assert accuracy == pytest.approx(report["keras"]["accuracy"])


@pytest.mark.one_backend
def test_the_demo_tells_what_it_does(tmp_path, monkeypatch):
    report = {
        "backend": "jax",
        "held_out": 360,
        "keras": {"accuracy": 0.9861, "bytes": 6866895, "milliseconds": 11.151},
        "litert": {"accuracy": 0.9861, "bytes": 2234680, "milliseconds": 0.481},
        "agreement": 1.0,
        "largest_difference": 2.1e-7,
        "files": {"model": "there/digits.keras"},
    }
    monkeypatch.setattr(run, "run_demo", lambda *_: report)

    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path)])

    assert result.exit_code == 0, result.output
    for text in ("98.61%", "Keras (jax)", "2,234,680", "0.48 ms", "100.00%", "2.1e-07"):
        assert text in result.stdout
    assert "there/digits.keras" in result.stdout


@pytest.mark.backend_independent
def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(demo_module().REQUIRED, "no_such_module", "no-such-package")

    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path)])

    assert result.exit_code == 1
    assert "no-such-package: pip install 'keras-metaformer[demo]'" in result.stderr


def demo_module():
    import sys

    # `keras_metaformer_lite.cli.demo` as an attribute is the command of that name.
    return sys.modules["keras_metaformer_lite.cli.demo"]


@pytest.mark.backend_independent
def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()

    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path / "file")])

    assert result.exit_code == 1
    assert "Expected a directory" in result.stderr


@pytest.mark.backend_independent
@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--seed", "-1"]])
def test_bad_numbers_are_usage_errors(arguments):
    assert CliRunner().invoke(app, ["demo", *arguments]).exit_code == 2


@pytest.mark.large
def test_the_whole_demo_reads_97_of_100_digits(tmp_path):
    result = CliRunner().invoke(app, ["demo", "--json", "--output", str(tmp_path)])

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["held_out"] == 360
    assert report["keras"]["accuracy"] >= 0.97
    assert report["agreement"] == 1.0
