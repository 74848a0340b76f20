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


@pytest.mark.parametrize("ending", [".npz", ".weights.h5", ".keras"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_file_with_other_classes(ending, head, tmp_path):
    small = {"input_shape": (32, 32, 3), "classes": 3, "head": head}
    model = metaformer("pooling", **small)
    randomize(model)
    path = tmp_path / f"model{ending}"
    if ending == ".npz":
        np.savez(path, allow_pickle=False, **km.to_state_dict(model))
    elif ending == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
    with pytest.warns(UserWarning, match="3 classes there and 5 here"):
        loaded = metaformer("pooling", **{**small, "classes": 5}, weights=path)
    assert loaded.output_shape == (None, 5)
    kernel = to_numpy(loaded.get_layer("predictions").kernel)
    assert 0 < kernel.std() < 0.1
    assert len(loaded.weights) == len(model.weights)
    for ours, theirs in zip(loaded.weights[:-2], model.weights[:-2], strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    same = metaformer("pooling", **small, weights=path)
    assert _equal(same, model)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_a_damaged_file_of_keras(original, ending, tmp_path):
    path = tmp_path / f"model{ending}"
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"cannot be read.*Received: path="):
        metaformer("separable_convolution", weights=path)


@pytest.mark.parametrize("channels", [1, 2, 4, 12])
@pytest.mark.parametrize("family", ["convformer", "mlp_mixer", "ffnet", "poolformer"])
def test_other_channels_are_adapted_as_timm_does(family, channels, tmp_path):
    model = build_small(family)
    randomize(model)
    path = tmp_path / "model.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(model))
    other = build_small(family, (64, 64, channels))
    with pytest.warns(UserWarning, match=f"the model is for {channels}"):
        load_weights_file(other, path)
    kernels, others = (
        km.to_state_dict(each, "official" if family == "ffnet" else "timm")
        for each in (model, other)
    )
    changed = [key for key in kernels if kernels[key].shape != others[key].shape]
    assert len(changed) == 1
    kernel = kernels[changed[0]].astype("float64")
    if channels == 1:
        expected = kernel[:, :1] + kernel[:, 1:2] + kernel[:, 2:]
    else:
        expected = np.concatenate([kernel] * 4, axis=1)[:, :channels] * 3 / channels
    np.testing.assert_allclose(others.pop(changed[0]), expected, rtol=1e-6, atol=1e-6)
    assert all(np.array_equal(others[key], kernels[key]) for key in others)


def test_one_channel_sees_a_grey_image_as_before(original, tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(original))
    with pytest.warns(UserWarning, match="summed"):
        grey = metaformer(
            "separable_convolution", weights=path, input_shape=(32, 32, 1)
        )
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 1)).astype("float32")
    np.testing.assert_allclose(
        to_numpy(grey(image)),
        to_numpy(original(np.repeat(image, 3, -1))),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_file_for_other_channels_than_three_is_named(tmp_path):
    model = metaformer(input_shape=(32, 32, 4))
    path = tmp_path / "model.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(model))
    with pytest.raises(ValueError, match=r"\(7, 7, 2, 16\)"):
        metaformer(input_shape=(32, 32, 2), weights=path)


def test_preprocessing_names_the_channels():
    with pytest.raises(ValueError, match="needs 3 channels"):
        metaformer(input_shape=(32, 32, 4), include_preprocessing=True)
