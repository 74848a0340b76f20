"""The command `keras-metaformer export`."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_metaformer.export import LiteRTModel
from keras_metaformer_lite.cli import app
from tests.export.models import hierarchical

LABELS = list("abcdefghij")


@pytest.fixture
def small_model(monkeypatch):
    """A small model in place of the one asked for."""
    model = hierarchical(include_preprocessing=True)
    model.image_description = dataclasses.replace(
        model.image_description, class_names=LABELS
    )
    # By its name in sys.modules: the package has the function under the same name.
    module = sys.modules["keras_metaformer_lite.cli.export"]
    loaded = model, model.image_description
    monkeypatch.setattr(module, "load_described", lambda *_, **options: loaded)
    return model


def _run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.one_backend
def test_export(small_model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (tmp_path / "labels.txt").write_text("\n".join(label * 2 for label in LABELS))
    path, report = tmp_path / "model.tflite", tmp_path / "report.json"
    result = _run(
        *("--output", path, "--report", report, "--quantize", "float16"),
        *("--calibration", tmp_path, "--labels", tmp_path / "labels.txt"),
    )
    assert result.exit_code == 0, result.output
    assert "float16" in result.output
    assert json.loads(report.read_text())["images"].startswith("1 image,")
    runner = LiteRTModel(path)
    assert runner.labels is not None
    assert runner.labels[0] == "aa"
    assert len(runner.classify(tmp_path / "image.png", top=2)[0]) == 2


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "NoFormerS12"], 2, "Unknown model"),
        (["--model", "GMLPTi16"], 2, "No weights are published"),
        (["--weights", "none.safetensors"], 3, "none.safetensors"),
        (["--quantize", "int4"], 2, "int4"),
    ],
)
def test_errors(arguments, code, message, tmp_path):
    result = _run("--output", tmp_path / "model.tflite", *arguments)
    assert result.exit_code == code
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backend_independent
def test_int8_without_images(small_model, tmp_path):
    result = _run("--output", tmp_path / "model.tflite", "--quantize", "int8")
    assert result.exit_code == 2
    assert "calibration" in result.output
