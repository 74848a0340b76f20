"""Token-mixing matrices for another image size."""

import warnings
from typing import Any

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.weights import loading
from keras_metaformer.weights.token_interpolation import resize_token_weight
from tests.layer_checks import randomize

SMALL, LARGE = (4, 3), (6, 5)
GENERATOR = np.random.default_rng(0)


def _random(*shape: int) -> np.ndarray:
    return GENERATOR.normal(size=shape)


@pytest.mark.backend_independent
def test_the_same_size_changes_nothing():
    kernel, bias = _random(12, 12), _random(12)
    same = (SMALL, SMALL)
    np.testing.assert_allclose(resize_token_weight(kernel, same, same), kernel)
    np.testing.assert_allclose(resize_token_weight(bias, same, same), bias)


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (SMALL, LARGE),
        (LARGE, SMALL),
        ((7, 3), (4, 5)),
        ((1, 1), (3, 2)),
        (SMALL, (1, 1)),
    ],
)
def test_a_constant_map_gives_what_it_gave(before, after):
    tokens, new_tokens = np.prod(before), np.prod(after)
    # To hidden tokens, which are no map: the same numbers exactly.
    expand = _random(tokens, 8)
    resized = resize_token_weight(expand, (before, after), None)
    assert resized.shape == (new_tokens, 8)
    np.testing.assert_allclose(resized.sum(axis=0), expand.sum(axis=0), atol=1e-12)
    # From map to map: the old answer, resized.
    kernel = _random(tokens, tokens)
    resized = resize_token_weight(kernel, (before, after), (before, after))
    assert resized.shape == (new_tokens, new_tokens)
    answer = resize_token_weight(kernel.sum(axis=0), None, (before, after))
    np.testing.assert_allclose(resized.sum(axis=0), answer, atol=1e-12)
    # A constant answer stays that constant.
    constant = resize_token_weight(np.full((8, tokens), 0.25), None, (before, after))
    np.testing.assert_allclose(constant, 0.25)


@pytest.mark.backend_independent
def test_outputs_are_resized_bilinearly():
    """A plane, sampled more finely with the corners in place, is the same plane."""

    def plane(height: int, width: int) -> np.ndarray:
        rows = np.linspace(0, 1, height)[:, None]
        columns = np.linspace(0, 1, width)[None]
        return (2 * rows - 3 * columns + 1).reshape(-1)

    for before, after in ((SMALL, LARGE), (SMALL, (2, 2)), (LARGE, (9, 4))):
        resized = resize_token_weight(plane(*before), None, (before, after))
        np.testing.assert_allclose(resized, plane(*after), atol=1e-12)
    # Between two points lies their mean, in each direction.
    bias = np.array([[0.0, 4.0], [8.0, 4.0]]).reshape(-1)
    expected = [[0, 2, 4], [4, 4, 4], [8, 6, 4]]
    resized = resize_token_weight(bias, None, ((2, 2), (3, 3)))
    np.testing.assert_allclose(resized.reshape(3, 3), expected)


@pytest.mark.backend_independent
def test_height_and_width_are_not_mixed_up():
    """A kernel that sees one row of the old map sees one row of the new."""
    kernel = np.zeros((2, 5, 1))
    kernel[0] = 1.0
    resized = resize_token_weight(kernel.reshape(10, 1), ((2, 5), (2, 9)), None)
    seen = resized.reshape(2, 9)
    np.testing.assert_allclose(seen[1], 0)
    assert (seen[0] > 0).all()
    np.testing.assert_allclose(seen.sum(), 5)


@pytest.mark.backend_independent
def test_the_dtype_stays():
    assert (
        resize_token_weight(np.ones((12, 4), "float32"), (SMALL, LARGE), None).dtype
        == np.float32
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Any:
    """A model with random weights for 224 x 224 pixels, and its file."""
    model: Any = km.ResMLP12(weights=None, classifier_activation=None)
    randomize(model)
    path = tmp_path_factory.mktemp("cache") / "resmlp_12.weights.h5"
    model.save_weights(path)
    return model, path


@pytest.fixture
def _cached(published, monkeypatch):
    monkeypatch.setattr(
        loading.cache, "ensure_converted", lambda *args, **kwargs: published[1]
    )


@pytest.mark.usefixtures("_cached")
def test_another_size_is_refused_unless_asked_for():
    with pytest.raises(ValueError) as error:
        km.ResMLP12(weights="imagenet", input_shape=(160, 192, 3))
    message = str(error.value)
    assert "224 x 224" in message
    assert "token_interpolation=True" in message
    assert "(160, 192, 3)" in message
    assert "block_0/token_mixing/transform/linear/kernel" in message


@pytest.mark.usefixtures("_cached")
def test_published_matrices_are_resized_on_request(published):
    original = published[0]
    with pytest.warns(UserWarning, match=r"Resized.*224.*accuracy is not promised"):
        model: Any = km.ResMLP12(
            weights="imagenet",
            input_shape=(160, 192, 3),
            token_interpolation=True,
            classifier_activation=None,
        )
    grids = ((14, 14), (10, 12))
    for index in (0, 11):

        def linear(source: Any, index: int = index) -> Any:
            return source.get_layer(f"block_{index}").token_mixing.transform.linear

        expected = resize_token_weight(to_numpy(linear(original).kernel), grids, grids)
        np.testing.assert_array_equal(to_numpy(linear(model).kernel), expected)
    for name in ("patch_embedding", "output_norm", "predictions"):
        for ours, theirs in zip(
            model.get_layer(name).weights, original.get_layer(name).weights, strict=True
        ):
            np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    assert model(np.ones((1, 160, 192, 3), "float32")).shape == (1, 1000)


@pytest.mark.usefixtures("_cached")
def test_at_its_own_size_the_request_changes_nothing(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = km.ResMLP12(weights="imagenet", token_interpolation=True)
    for ours, theirs in zip(model.weights, published[0].weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


@pytest.mark.usefixtures("_cached")
def test_a_model_with_more_weights_than_published_is_refused():
    with pytest.raises(ValueError, match="residual_scale/scale: not in the weights"):
        km.ResMLP12(weights="imagenet", residual_scaling="branch")


def test_a_file_does_not_say_its_size(published):
    with pytest.raises(ValueError, match=r"given by a tag.*Received: weights="):
        km.ResMLP12(weights=published[1], token_interpolation=True)
