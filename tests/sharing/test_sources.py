"""Whole models from files and folders, and into them."""

import json
from typing import Any

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.data import EvaluationTransform, ImageDescription
from keras_metaformer_lite.weights import timm_names
from tests.golden import features as golden
from tests.layer_checks import randomize
from tests.small_models import build_small, narrowed

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")


def test_a_keras_file_comes_back_whole(tmp_path):
    model = build_small("ffnet")
    randomize(model)
    model.image_description = ImageDescription(
        EvaluationTransform(64), class_names=tuple("abcdefg")
    )
    km.save(model, tmp_path / "mine.keras")
    loaded: Any = km.load(tmp_path / "mine.keras")
    assert loaded.image_description == model.image_description
    np.testing.assert_allclose(
        to_numpy(loaded(IMAGES)), to_numpy(model(IMAGES)), atol=1e-6
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.keras"]


def test_timms_layout_both_ways(tmp_path, monkeypatch):
    constructor = narrowed(monkeypatch, "ConvFormerS18")
    model = constructor(
        weights=None, classes=3, classifier_activation=None, input_shape=(64, 64, 3)
    )
    randomize(model)
    model.image_description = ImageDescription(
        EvaluationTransform(64, crop_fraction=0.9),
        output="logits",
        class_names=("cat", "dog", "fox"),
    )
    km.save(model, tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text("utf-8"))
    assert config["architecture"] == "convformer_s18"
    assert config["pretrained_cfg"]["label_names"] == ["cat", "dog", "fox"]
    loaded: Any = km.load(tmp_path / "mine")
    assert loaded.image_description == model.image_description
    np.testing.assert_allclose(
        to_numpy(loaded(IMAGES)), to_numpy(model(IMAGES)), atol=1e-6
    )
    # Named otherwise, the model does not say what it is.
    renamed = constructor(weights=None, classes=3, name="mine")
    with pytest.raises(ValueError, match="architecture"):
        km.save(renamed, tmp_path / "other")
    km.save(renamed, tmp_path / "other", architecture="ConvFormerS18")
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["PoolFormerS12", "MLPMixerS32"])
def test_what_timm_computes_otherwise_is_loaded_as_timm_has_it(name, tmp_path):
    """PoolFormer is normalised after pooling there, MLP-Mixer has the exact GELU."""
    seeded = golden.seeded_model(name)
    arrays = km.to_state_dict(seeded, "timm")
    from safetensors.numpy import save_file

    save_file(arrays, tmp_path / "model.safetensors")
    config = {
        "architecture": timm_names.timm_name(name),
        "pretrained_cfg": {"input_size": [3, 64, 64], "num_classes": 1000},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    model = km.load(tmp_path)
    vectors = km.embeddings(model, golden.images())
    expected = golden.recorded(name)["embedding"]
    error = np.abs(vectors[..., ::4].astype("float64") - expected).max()
    assert error <= 2e-5 * max(1.0, np.abs(expected).max())
    km.save(model, tmp_path / "again", architecture=name)
    with pytest.raises(ValueError, match="another model"):
        km.save(km.ResMLP12(weights=None), tmp_path / "x", architecture=name)


@pytest.mark.backend_independent
def test_errors_say_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        km.load(tmp_path / "nothing.keras")
    with pytest.raises(ValueError, match="weights=PATH"):
        km.load(tmp_path / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        km.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for text, message in (
        ("{", "JSON"),
        ("[]", "architecture"),
        ('{"architecture": "resnet50"}', "resnet50"),
        (
            '{"architecture": "caformer_s18", "model_args": {"act_layer": "relu"}}',
            "act_layer",
        ),
    ):
        (tmp_path / "config.json").write_text(text, "utf-8")
        with pytest.raises(ValueError, match=message):
            km.load(tmp_path)
    model = build_small("ffnet")
    with pytest.raises(ValueError, match="timm has no such"):
        km.save(model, tmp_path / "x", architecture="FFNet1")
    with pytest.raises(ValueError, match=r"\.keras"):
        km.save(model, tmp_path / "x.onnx")
