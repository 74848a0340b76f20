"""Models of this library as KerasHub's backbones and classifiers."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.data import EvaluationTransform, ImageDescription
from keras_metaformer.hub import (
    MetaFormerBackbone,
    MetaFormerImageClassifier,
    MetaFormerImageClassifierPreprocessor,
    MetaFormerImageConverter,
)
from keras_metaformer_lite.examples import photograph_files
from keras_metaformer_lite.processes import run_python
from keras_metaformer_lite.weights import catalogue
from tests.layer_checks import randomize
from tests.small_models import build_small, narrowed
from tests.weights import synthetic

ROOT = Path(__file__).parents[2]
IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")


@pytest.mark.parametrize(
    "family",
    [
        "caformer",
        *(
            pytest.param(family, marks=pytest.mark.one_backend)
            for family in ("poolformer", "ffnet", "mlp_mixer")
        ),
    ],
)
def test_a_classifier_says_what_the_model_says(family, tmp_path):
    import keras_hub

    model = build_small(family)
    randomize(model)
    expected = model.predict_on_batch(IMAGES)
    classifier = MetaFormerImageClassifier.from_model(model, preprocessor=None)
    np.testing.assert_allclose(classifier.predict_on_batch(IMAGES), expected, atol=1e-5)
    classifier.save_to_preset(tmp_path / "preset")
    # By the base class, as any user of KerasHub loads it.
    loaded = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))
    assert type(loaded) is MetaFormerImageClassifier
    np.testing.assert_allclose(loaded.predict_on_batch(IMAGES), expected, atol=1e-5)
    classifier.save(tmp_path / "classifier.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "classifier.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(IMAGES), expected, atol=1e-5)


def _as_pixels(photograph):
    from PIL import Image, ImageFilter

    blurred = Image.open(photograph).convert("RGB").filter(ImageFilter.GaussianBlur(8))
    return np.asarray(blurred)


@pytest.mark.parametrize("squash", [False, True])
def test_the_preprocessor_prepares_as_the_model_was_evaluated(squash):
    transform = EvaluationTransform(96, crop_fraction=0.875, squash=squash)
    converter = MetaFormerImageConverter.of(ImageDescription(transform))
    for path in photograph_files():
        pixels = _as_pixels(path)
        found = np.asarray(keras.ops.convert_to_numpy(converter(pixels[None])))[0]
        expected = transform(pixels)
        assert found.shape == expected.shape
        # The middle square is cut out first, half a pixel beside Pillow's at most:
        # hence photographs without sharp edges.
        assert np.abs(found - expected).mean() < 0.08
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    again = MetaFormerImageConverter.from_config(converter.get_config())
    np.testing.assert_array_equal(again(pixels[None]), converter(pixels[None]))
    assert again.image_size == (96, 96)
    with pytest.raises(ValueError, match="Bounding boxes"):
        converter({"images": pixels[None], "boxes": np.zeros((1, 1, 4))})
    with pytest.raises(ValueError, match="crop_fraction"):
        MetaFormerImageConverter((8, 8), crop_fraction=0)


def test_a_classifier_takes_photographs_and_learns_other_classes(tmp_path):
    model = build_small("poolformer")
    model.image_description = ImageDescription(EvaluationTransform(64))
    classifier = MetaFormerImageClassifier.from_model(
        model, num_classes=3, activation="softmax"
    )
    assert type(classifier.preprocessor) is MetaFormerImageClassifierPreprocessor
    pixels = np.random.default_rng(0).integers(0, 256, (4, 90, 80, 3), "uint8")
    classifier.compile(optimizer=keras.optimizers.Adam(1e-3))
    history = classifier.fit(
        pixels, np.array([0, 1, 2, 0]), epochs=5, batch_size=4, verbose=0
    )
    assert history.history["loss"][-1] < history.history["loss"][0]
    expected = classifier.predict(pixels, verbose=0)
    np.testing.assert_allclose(expected.sum(-1), 1, atol=1e-5)
    classifier.save_to_preset(tmp_path / "mine")
    loaded = MetaFormerImageClassifier.from_preset(str(tmp_path / "mine"))
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), expected, atol=1e-5)


@pytest.mark.one_backend
def test_presets_are_the_published_weights(tmp_path, monkeypatch):
    import keras_hub

    constructor = narrowed(monkeypatch, "PoolFormerV2S12")
    monkeypatch.setenv("KERAS_METAFORMER_CACHE", str(tmp_path))
    monkeypatch.setenv("KERAS_METAFORMER_OFFLINE", "1")
    row = catalogue.find("PoolFormerV2S12", "imagenet")
    model = constructor(weights=None, classifier_activation=None)
    randomize(model)
    naming = synthetic.naming_of(row, "auto")
    synthetic.write(row, "auto", km.to_state_dict(model, naming))
    name = "poolformerv2_s12_imagenet"
    assert name in MetaFormerBackbone.presets
    assert name in MetaFormerImageClassifier.presets

    classifier = MetaFormerImageClassifier.from_preset(name)
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(classifier(images, training=False)),
        model.predict_on_batch(images),
        atol=1e-5,
    )
    assert classifier.preprocessor.image_size == (row.resolution,) * 2
    assert classifier.preprocessor.image_converter.crop_fraction == row.crop_fraction
    backbone = MetaFormerBackbone.from_preset(name, load_weights=False)
    assert isinstance(backbone, keras_hub.models.FeaturePyramidBackbone)
    assert list(backbone.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    with pytest.raises(ValueError, match="no_such"):
        MetaFormerBackbone.from_preset("no_such_preset")


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match="include_top"):
        MetaFormerImageClassifier.from_model(build_small("ffnet", include_top=False))
    with pytest.raises(ValueError, match="pyramid levels"):
        MetaFormerBackbone(km.feature_extractor(build_small("ffnet"), ["output_norm"]))


@pytest.mark.one_backend
def test_a_nested_backbone_trains_saves_folds_and_exports(tmp_path):
    backbone = build_small("ffnet", include_top=False, pooling="avg")
    image = keras.Input((64, 64, 3))
    x = keras.layers.RandomFlip("horizontal", seed=0)(image)
    x = keras.layers.Dense(4)(backbone(x))
    model = keras.Model(image, x)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    losses = model.fit(IMAGES, np.ones((2, 4)), epochs=12, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    expected = model.predict(IMAGES, verbose=0)
    model.save(tmp_path / "mine.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "mine.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), expected, atol=1e-5)
    other = "torch" if keras.backend.backend() == "jax" else "jax"
    np.save(tmp_path / "mine.images.npy", IMAGES)
    found = run_python(
        ROOT / "tests" / "models" / "predict_saved.py",
        tmp_path,
        env=os.environ | {"KERAS_BACKEND": other, "PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == 0, found.stderr
    there = np.load(tmp_path / f"mine.{other}.npy")
    np.testing.assert_allclose(there, expected, atol=1e-4)
    folded = km.fold(model)
    assert folded.count_params() < model.count_params()
    np.testing.assert_allclose(folded.predict(IMAGES, verbose=0), expected, atol=1e-4)
    report = km.export.to_litert(folded, tmp_path / "mine.tflite")
    assert report.exact
    found = km.export.LiteRTModel(tmp_path / "mine.tflite").predict(IMAGES)
    np.testing.assert_allclose(found, expected, atol=1e-4)
