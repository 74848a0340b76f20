"""`weights=PATH`: what a constructor and the builder make of a file."""

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.weights.loading import load_weights_file
from tests.layer_checks import randomize, to_numpy
from tests.small_models import build_small, metaformer


@pytest.fixture(scope="module")
def original():
    model = metaformer("separable_convolution")
    randomize(model, seed=1)
    return model


def _equal(one, other) -> bool:
    return all(
        np.array_equal(to_numpy(a), to_numpy(b))
        for a, b in zip(one.weights, other.weights, strict=True)
    )


def test_the_builder_loads_keras_own_file(original, tmp_path):
    path = tmp_path / "model.weights.h5"
    original.save_weights(path)
    for given in (path, str(path)):
        assert _equal(metaformer("separable_convolution", weights=given), original)


def test_the_builder_loads_a_state_dict(original, tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(original, "timm"))
    assert _equal(metaformer("separable_convolution", weights=path), original)


def test_a_constructor_loads_a_state_dict_without_its_head(tmp_path):
    model = km.IdentityFormerS12(weights=None, input_shape=(32, 32, 3), classes=3)
    randomize(model)
    path = tmp_path / "model.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(model))
    loaded = km.IdentityFormerS12(weights=path, include_top=False)
    assert len(loaded.weights) == len(model.weights) - 2
    np.testing.assert_array_equal(
        to_numpy(loaded.get_layer("output_norm").gamma),
        to_numpy(model.get_layer("output_norm").gamma),
    )


def test_a_file_that_does_not_fit_is_refused(original, tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(original))
    with pytest.raises(ValueError, match=r"token_mixer.pwconv1.weight: unknown"):
        metaformer("pooling", weights=path)


def test_no_such_file(tmp_path):
    missing = tmp_path / "missing.weights.h5"
    with pytest.raises(FileNotFoundError, match="Received: weights="):
        load_weights_file(metaformer(), missing)


@pytest.mark.parametrize("ending", [".npz", ".weights.h5"])
def test_randformers_weights_are_tied_to_their_image_size(ending, tmp_path):
    model = build_small("randformer")
    path = tmp_path / f"model{ending}"
    if ending == ".npz":
        np.savez(path, allow_pickle=False, **km.to_state_dict(model))
    else:
        model.save_weights(path)
    same = build_small("randformer")
    load_weights_file(same, path)
    assert _equal(same, model)

    other = build_small("randformer", (225, 193, 3))
    shapes = [tuple(w.shape) for w in other.weights if w.name == "random_matrix"]
    assert shapes == [(14 * 12, 14 * 12), (7 * 6, 7 * 6)]
    with pytest.raises(ValueError) as error:
        load_weights_file(other, path)
    assert "random_matrix" in str(error.value)
    assert "168, 168" in str(error.value) and "16, 16" in str(error.value)
