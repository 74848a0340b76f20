"""A compiled model's file says what the user gave, not what a backend made of it."""

import json
import zipfile
from typing import Any

import keras
import numpy as np
import pytest

from tests.small_models import metaformer

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
LOSS = "sparse_categorical_crossentropy"


def stored(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))["compile_config"]["jit_compile"]


@pytest.mark.parametrize("asked_for", ["auto", False])
def test_what_was_asked_for_is_stored(asked_for, tmp_path):
    model = metaformer()
    model.compile("sgd", LOSS, jit_compile=asked_for, metrics=["accuracy"])
    path = tmp_path / "model.keras"
    model.save(path)
    assert stored(path) == asked_for

    loaded: Any = keras.saving.load_model(path)
    assert loaded.jit_compile is model.jit_compile
    loaded.save(path)
    assert stored(path) == asked_for


@pytest.mark.backend_independent
def test_the_argument_may_be_positional(tmp_path):
    model = metaformer()
    # optimizer, loss, loss_weights, metrics, weighted_metrics, run_eagerly, ...
    model.compile("sgd", LOSS, None, ["accuracy"], None, False, 1, False)
    model.save(tmp_path / "model.keras")
    assert stored(tmp_path / "model.keras") is False


def test_training_goes_on_after_loading(tmp_path):
    model = metaformer()
    model.compile("sgd", LOSS)
    model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    history = loaded.fit(IMAGES, np.array([0, 1]), verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.backend_independent
def test_a_model_that_was_not_compiled_has_no_such_config():
    assert metaformer().get_compile_config() == {}
