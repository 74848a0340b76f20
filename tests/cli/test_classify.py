"""`keras-metaformer classify`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer.export import LiteRTModel, to_litert
from keras_metaformer_lite.cli import app
from tests.export.models import hierarchical

runner = CliRunner()
MODEL = "MLPMixerS32"  # The cheapest to run.


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.npz"
    state_dict = km.to_state_dict(km.MLPMixerS32(weights=None), "official")
    # A spread-out head, so that the classes do not tie.
    shape = state_dict["head/kernel"].shape
    state_dict["head/kernel"] = np.random.default_rng(0).normal(size=shape) * 0.5
    np.savez(path, **state_dict)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("china", "flower"):
        Image.fromarray(load_sample_image(f"{name}.jpg")).save(folder / f"{name}.jpg")
    return folder


def _classify(*arguments: object):
    return runner.invoke(app, ["classify", "--model", MODEL, *map(str, arguments)])


def test_json_agrees_with_the_model(weights: Path, images: Path) -> None:
    result = _classify(images, "--weights", weights, "--json", "--top", 3)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [Path(row["image"]).name for row in rows] == ["china.jpg", "flower.jpg"]
    model = km.MLPMixerS32(weights=weights)
    transform = km.transforms_for(MODEL)
    with Image.open(images / "china.jpg") as image:
        scores = model.predict(transform(image)[None], verbose=0)
    expected = km.applications.mlp_mixer.decode_predictions(scores, top=3)[0]
    for entry, (wordnet_id, name, score) in zip(
        rows[0]["classes"], expected, strict=True
    ):
        assert (entry["id"], entry["name"]) == (wordnet_id, name)
        assert entry["probability"] == pytest.approx(score, rel=1e-4)


def test_an_unreadable_image_is_reported_and_the_rest_go_on(
    weights: Path, images: Path
) -> None:
    (images / "broken.jpg").write_text("hello")
    result = _classify(images, "--weights", weights)
    assert result.exit_code == 1
    # Whole, however long: wrapped paths cannot be copied.
    assert str(images / "china.jpg") in result.stdout.splitlines()
    assert str(images / "flower.jpg") in result.stdout.splitlines()
    assert "broken.jpg" in result.output
    assert "Expected an image file" in result.output


def test_glob(weights: Path, images: Path) -> None:
    result = _classify(images / "f*.jpg", "--weights", weights, "--json")
    assert [Path(row["image"]).name for row in json.loads(result.stdout)] == [
        "flower.jpg"
    ]


def test_errors_of_usage(images: Path, tmp_path: Path) -> None:
    result = runner.invoke(app, ["classify", str(images), "--model", "ResNet50"])
    assert result.exit_code == 2
    assert "ResNet50" in result.output
    result = _classify(tmp_path / "*.png")
    assert result.exit_code == 2
    assert "*.png" in result.output
    # No size of this name has published weights.
    result = runner.invoke(app, ["classify", str(images), "--model", "GMLPTi16"])
    assert result.exit_code == 2
    assert "--weights" in result.output


def test_weights_that_cannot_be_loaded(images: Path, tmp_path: Path) -> None:
    result = _classify(images, "--weights", tmp_path / "none.npz")
    assert result.exit_code == 3
    assert "none.npz" in result.output
    (tmp_path / "text.pth").write_text("hello")
    result = _classify(images, "--weights", tmp_path / "text.pth")
    assert result.exit_code == 3
    assert "text.pth" in result.output


def test_a_file_of_other_classes_must_be_said(
    weights: Path, images: Path, tmp_path: Path
) -> None:
    state_dict = km.to_state_dict(km.MLPMixerS32(weights=None, classes=7), "official")
    np.savez(tmp_path / "seven.npz", **state_dict)
    result = _classify(images, "--weights", tmp_path / "seven.npz")
    assert result.exit_code == 3
    assert "7 classes" in result.output
    result = _classify(
        images, "--weights", tmp_path / "seven.npz", "--classes", 7, "--json"
    )
    assert result.exit_code == 0
    assert len(json.loads(result.stdout)[0]["classes"]) == 5


LABELS = [f"class_{letter}" for letter in "abcdefghij"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.tflite"
    model = hierarchical(include_preprocessing=True, classifier_activation=None)
    to_litert(
        model, path, labels=LABELS, check_gpu=False, latency_runs=0, verbose=False
    )
    return path


def _classify_exported(*arguments: object):
    return runner.invoke(app, ["classify", *map(str, arguments)])


@pytest.mark.backend_independent
def test_an_exported_file(exported: Path, images: Path) -> None:
    (images / "broken.jpg").write_text("hello")
    result = _classify_exported(images, "--tflite", exported, "--json", "--top", 3)
    assert result.exit_code == 1
    broken, china, _ = json.loads(result.stdout)
    assert "Expected an image file" in broken["error"]
    assert Path(china["image"]).name == "china.jpg"
    # The file gives logits.
    logits = LiteRTModel(exported).predict(images / "china.jpg")[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    for entry, index in zip(china["classes"], np.argsort(-expected), strict=False):
        assert entry["index"] == index
        assert entry["name"] == LABELS[index]
        assert entry["probability"] == pytest.approx(expected[index], rel=1e-4)
    assert len(china["classes"]) == 3
    result = _classify_exported(images / "china.jpg", "--tflite", exported)
    assert result.exit_code == 0
    assert china["classes"][0]["name"].replace("_", " ") in result.output


@pytest.mark.backend_independent
def test_exported_files_that_cannot_be_used(
    exported: Path, images: Path, tmp_path: Path
) -> None:
    for option in (["--model", "CAFormerS18"], ["--weights", "x"], ["--classes", "3"]):
        result = _classify_exported(images, "--tflite", exported, *option)
        assert result.exit_code == 2
        assert option[0] in result.output
    (tmp_path / "half.tflite").write_bytes(exported.read_bytes()[:5000])
    for name in ("half.tflite", "none.tflite"):
        result = _classify_exported(images, "--tflite", tmp_path / name)
        assert result.exit_code == 3
        assert name in result.output
    normalised = tmp_path / "normalised.tflite"
    to_litert(
        hierarchical(), normalised, check_gpu=False, latency_runs=0, verbose=False
    )
    result = _classify_exported(images, "--tflite", normalised)
    assert result.exit_code == 3
    assert "preprocessing" in result.output
