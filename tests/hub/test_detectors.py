"""Detectors and segmenters of the ecosystem take our models as they are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from tests.hub.small_detectors import (
    BOXES,
    CLASSES,
    IMAGES,
    SIZE,
    detector,
    segmenter,
)
from tests.small_models import build_small

ROOT = Path(__file__).parents[2]
BACKENDS = ("tensorflow", "jax", "torch")
#: The papers' families with a pyramid.
FAMILIES = ["caformer", "convformer", "poolformerv2", "ffnet"]
TOLERANCE = 1e-4
# What a segmenter finds: the boxes' insides, which are brighter.
MASKS = np.zeros((len(IMAGES), SIZE, SIZE, 1), "int32")
for mask, (left, top, right, bottom) in zip(
    MASKS, BOXES[:, 0].astype(int), strict=True
):
    mask[top:bottom, left:right] = 1
SCENES = IMAGES + 3 * MASKS


def _numbers(outputs: Any) -> dict[str, np.ndarray]:
    named = outputs if isinstance(outputs, dict) else {"logits": outputs}
    return {name: to_numpy(value) for name, value in named.items()}


def _first_and_last_loss(model, images, targets) -> tuple[float, float]:
    losses = model.fit(images, targets, batch_size=2, epochs=6, verbose=0).history
    return losses["loss"][0], losses["loss"][-1]


def _same_after_loading(model, path) -> None:
    expected = _numbers(model(IMAGES, training=False))
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    assert type(loaded) is type(model)
    for name, found in _numbers(loaded(IMAGES, training=False)).items():
        assert expected[name].std() > 0
        largest = max(1.0, np.abs(expected[name]).max())
        np.testing.assert_allclose(found, expected[name], atol=TOLERANCE * largest)


# Two of the families stand for all in `make test`.
# Its loss takes minutes to compile on JAX; DeepLab trains on each backend.
@pytest.mark.one_backend
@pytest.mark.parametrize(
    "family",
    [
        "caformer",
        "ffnet",
        pytest.param("convformer", marks=pytest.mark.large),
        pytest.param("poolformerv2", marks=pytest.mark.large),
    ],
)
def test_retinanet_learns_and_is_saved(family, tmp_path):
    model = detector(family)
    model.compile(keras.optimizers.Adam(1e-3))
    targets = {"boxes": BOXES, "labels": CLASSES}
    first, last = _first_and_last_loss(model, IMAGES, targets)
    assert last < 0.9 * first
    _same_after_loading(model, tmp_path / "detector.keras")
    found = model.predict(IMAGES, verbose=0)
    assert found["boxes"].shape[::2] == (2, 4)


@pytest.mark.parametrize(
    "family",
    [
        pytest.param("convformer", marks=pytest.mark.one_backend),
        pytest.param("poolformerv2", marks=pytest.mark.one_backend),
        pytest.param("caformer", marks=pytest.mark.large),
        pytest.param("ffnet", marks=pytest.mark.large),
    ],
)
def test_deeplab_learns_and_is_saved(family, tmp_path):
    model = segmenter(family)
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[],
    )
    first, last = _first_and_last_loss(model, SCENES, MASKS)
    assert last < 0.5 * first
    _same_after_loading(model, tmp_path / "segmenter.keras")
    assert model(IMAGES).shape == (2, SIZE, SIZE, 2)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(name, marks=pytest.mark.large if name == "jax" else ())
        for name in BACKENDS
    ],
)
@pytest.mark.parametrize(
    ("detected_by", "segmented_by"),
    [
        pytest.param(["ffnet"], ["caformer"], id="one of each"),
        pytest.param(FAMILIES, FAMILIES, id="all", marks=pytest.mark.large),
    ],
)
def test_predictions_are_the_same_on_another_backend(
    detected_by, segmented_by, other, tmp_path
):
    here = keras.backend.backend()
    if other == here:
        return  # Loaded here in the tests above.
    models = {
        **{f"detector_{family}": detector(family) for family in detected_by},
        **{f"segmenter_{family}": segmenter(family) for family in segmented_by},
    }
    expected = {}
    for name, model in models.items():
        expected[name] = _numbers(model(IMAGES, training=False))
        model.save(tmp_path / f"{name}.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    finished = subprocess.run(
        [sys.executable, "-m", "tests.hub.predict_saved", str(tmp_path)],
        cwd=ROOT,
        env=os.environ
        | {"KERAS_BACKEND": other, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stderr
    for name, outputs in expected.items():
        with np.load(tmp_path / f"{name}.npz") as found:
            assert set(found) == set(outputs)
            for key, value in outputs.items():
                error = np.abs(found[key] - value).max()
                assert error <= TOLERANCE * max(1.0, np.abs(value).max()), (name, key)


# KerasCV ends with 0.9.0; its heads are large and cannot be had smaller.
@pytest.mark.large
def test_keras_cv_retinanet_learns():
    import keras_cv

    model = keras_cv.models.RetinaNet(
        backbone=build_small("caformer", include_top=False),
        num_classes=2,
        bounding_box_format="xyxy",
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        classification_loss="focal",
        box_loss="smoothl1",
        metrics=None,
    )
    targets = {"boxes": BOXES, "classes": CLASSES}
    first, last = _first_and_last_loss(model, IMAGES, targets)
    assert last < first
    if keras.backend.backend() == "torch":  # Its decoder is torchvision's.
        with pytest.raises(ModuleNotFoundError, match="torchvision"):
            model.predict(IMAGES, verbose=0)
    else:
        assert model.predict(IMAGES, verbose=0)["boxes"].shape == (2, 100, 4)


@pytest.mark.large
def test_keras_cv_deeplab_learns():
    import keras_cv

    model = keras_cv.models.DeepLabV3Plus(
        backbone=build_small("convformer", include_top=False), num_classes=2
    )
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    if keras.backend.backend() == "torch":  # With KerasCV's own backbones, too.
        with pytest.raises(RuntimeError, match="grad_input must be contiguous"):
            _first_and_last_loss(model, SCENES, MASKS)
        assert model.predict(SCENES, verbose=0).shape == (*SCENES.shape[:-1], 2)
        return
    first, last = _first_and_last_loss(model, SCENES, MASKS)
    assert last < first
