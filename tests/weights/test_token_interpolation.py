"""Token-mixing matrices for another image size."""

import warnings
from typing import Any

import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.weights import loading
from keras_metaformer.weights.files import keras_files
from keras_metaformer.weights.token_interpolation import (
    map_of_tokens,
    resize_positions,
    resize_token_weight,
)
from tests.layer_checks import randomize
from tests.small_models import build_small

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
    path = tmp_path_factory.mktemp("cache") / "resmlp_12.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(model))
    return model, path


@pytest.fixture
def _cached(published, monkeypatch):
    monkeypatch.setattr(
        loading.cache, "ensure_source", lambda *args, **kwargs: published[1]
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
    with pytest.warns(UserWarning, match=r"Resized.*14 x 14.*accuracy is not promised"):
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
    with pytest.raises(ValueError, match=r"residual_scale/scale: has no name"):
        km.ResMLP12(weights="imagenet", residual_scaling="branch")


@pytest.mark.parametrize("tokens", [True, (32, 32)])
def test_a_file_of_ones_own_for_square_images(tokens, tmp_path):
    small = build_small("mlp_mixer", (32, 32, 3), {"patch_size": 8})
    randomize(small)
    path = tmp_path / "mine.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(small))
    large = build_small("mlp_mixer", (48, 32, 3), {"patch_size": 8})
    with pytest.raises(ValueError, match="token_interpolation=True"):
        loading.load_weights_file(large, path)
    with pytest.warns(UserWarning, match="from maps of 4 x 4 tokens"):
        loading.load_weights_file(large, path, token_interpolation=tokens)
    _assert_resized(small, large, ((4, 4), (6, 4)))


def test_a_file_of_ones_own_for_other_images(tmp_path):
    """Of 24 tokens nobody knows the map: 6 x 4, 4 x 6, 3 x 8, ..."""
    small = build_small("mlp_mixer", (48, 32, 3), {"patch_size": 8})
    randomize(small)
    path = tmp_path / "mine.npz"
    np.savez(path, allow_pickle=False, **km.to_state_dict(small))
    large = build_small("mlp_mixer", (64, 64, 3), {"patch_size": 8})
    with pytest.raises(ValueError, match="of shape"):
        loading.load_weights_file(large, path, token_interpolation=True)
    with pytest.warns(UserWarning, match="from maps of 6 x 4 tokens"):
        loading.load_weights_file(large, path, token_interpolation=(48, 32))
    _assert_resized(small, large, ((6, 4), (8, 8)))


def _assert_resized(small: Any, large: Any, grids: Any) -> None:
    ours, theirs = (
        model.get_layer("block_1").token_mixing.transform.expand.kernel
        for model in (large, small)
    )
    expected = resize_token_weight(to_numpy(theirs), grids, None)
    np.testing.assert_array_equal(to_numpy(ours), expected)
    ours, theirs = (
        model.get_layer("block_1").token_mixing.transform.project.bias
        for model in (large, small)
    )
    expected = resize_token_weight(to_numpy(theirs), None, grids)
    np.testing.assert_array_equal(to_numpy(ours), expected)


@pytest.mark.backend_independent
@pytest.mark.parametrize("wrong", [0, 224, (224,), (224, 0), "yes", (1.5, 2)])
def test_what_is_no_image_size(wrong):
    model = build_small("mlp_mixer")
    with pytest.raises(ValueError, match="Received"):
        km.port_weights(model, km.to_state_dict(model), resize_tokens=wrong)


@pytest.mark.backend_independent
def test_maps_of_tokens():
    assert map_of_tokens(196, (1, 1)) == (14, 14)
    assert map_of_tokens(12, (1, 1)) is None
    assert map_of_tokens(12, (64, 48)) == (4, 3)
    assert map_of_tokens(15 * 11, (250, 190)) == (15, 11)  # patches of 16
    assert map_of_tokens(8 * 6, (250, 190)) == (8, 6)  # padded strides of 32
    assert map_of_tokens(7, (64, 48)) is None


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_keras_own_files(ending, tmp_path):
    small = build_small("mlp_mixer", (48, 32, 3), {"patch_size": 8})
    randomize(small)
    path = tmp_path / f"mine{ending}"
    (small.save if ending == ".keras" else small.save_weights)(path)
    large = build_small("mlp_mixer", (64, 64, 3), {"patch_size": 8}, classes=3)
    with pytest.raises(ValueError, match="shape"):
        loading.load_weights_file(large, path)
    with (
        pytest.warns(UserWarning, match="from maps of 6 x 4 tokens"),
        pytest.warns(UserWarning, match="except the last layer"),
    ):
        loading.load_weights_file(large, path, token_interpolation=(48, 32))
    _assert_resized(small, large, ((6, 4), (8, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loading.load_weights_file(small, path, token_interpolation=(48, 32))


def _assert_random_matrices_resized(small: Any, large: Any) -> None:
    """Each row still sums to 1, and sees of the image what it saw."""
    for stage, grids in ((2, ((3, 2), (4, 4))), (3, ((2, 1), (2, 2)))):
        ours, theirs = (
            to_numpy(
                model.get_layer(
                    f"stage_{stage}_block_0"
                ).token_mixing.transform.random_matrix
            )
            for model in (large, small)
        )
        expected = resize_token_weight(theirs.T, grids, grids).T
        np.testing.assert_array_equal(ours, expected)
        np.testing.assert_allclose(ours.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("ending", [".npz", ".weights.h5", ".keras"])
def test_random_matrices(ending, tmp_path):
    small = build_small("randformer", (48, 32, 3))
    path = tmp_path / f"mine{ending}"
    if ending == ".npz":
        np.savez(path, allow_pickle=False, **km.to_state_dict(small))
    else:
        (small.save if ending == ".keras" else small.save_weights)(path)
    large = build_small("randformer", (64, 64, 3))
    with pytest.raises(ValueError, match="shape"):
        loading.load_weights_file(large, path)
    with pytest.warns(UserWarning, match="from maps of 3 x 2 tokens"):
        loading.load_weights_file(large, path, token_interpolation=(48, 32))
    _assert_random_matrices_resized(small, large)


@pytest.mark.backend_independent
def test_a_keras_file_knows_the_size_of_its_images(tmp_path):
    small = build_small("randformer", (48, 32, 3))
    small.save(tmp_path / "mine.keras")
    assert keras_files.image_size(tmp_path / "mine.keras") == (48, 32)
    large = build_small("randformer", (64, 64, 3))
    with pytest.warns(UserWarning, match="from maps of 3 x 2 tokens"):
        loading.load_weights_file(
            large, tmp_path / "mine.keras", token_interpolation=True
        )
    _assert_random_matrices_resized(small, large)
    # Weights alone do not, nor does a model for images of any size.
    small.save_weights(tmp_path / "mine.weights.h5")
    assert keras_files.image_size(tmp_path / "mine.weights.h5") is None
    anything = build_small("caformer", (None, None, 3), include_top=False)
    anything.save(tmp_path / "any.keras")
    assert keras_files.image_size(tmp_path / "any.keras") is None
    (tmp_path / "broken.keras").write_bytes(b"PK")
    assert keras_files.image_size(tmp_path / "broken.keras") is None


@pytest.mark.backend_independent
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_positions_in_keras_own_files(ending, tmp_path):
    small = build_small("poolformer_hybrids", (64, 64, 3))
    randomize(small)
    path = tmp_path / f"mine{ending}"
    (small.save if ending == ".keras" else small.save_weights)(path)
    large = build_small("poolformer_hybrids", (96, 128, 3))
    with pytest.warns(UserWarning, match="Resized the learned positions"):
        loading.load_weights_file(large, path, token_interpolation=True)
    theirs, ours = (
        to_numpy(model.get_layer("stage_2_position_embedding").embeddings)
        for model in (small, large)
    )
    np.testing.assert_array_equal(ours, resize_positions(theirs, (6, 8)))


@pytest.mark.backend_independent
def test_positions_are_resized_bilinearly():
    grid = np.array([[0.0, 4.0], [8.0, 4.0]], "float32")[..., None]
    resized = resize_positions(grid, (3, 3))
    assert resized.dtype == np.float32
    expected = [[0, 2, 4], [4, 4, 4], [8, 6, 4]]
    np.testing.assert_allclose(resized[..., 0], expected)
    np.testing.assert_allclose(
        resize_positions(_random(3, 5, 2), (4, 1)).shape, (4, 1, 2)
    )


@pytest.mark.backend_independent
def test_positions_of_weights_for_another_size():
    small = build_small("poolformer_hybrids", (64, 64, 3))
    large = build_small("poolformer_hybrids", (96, 128, 3))
    randomize(small)
    state = km.to_state_dict(small)
    (key,) = [key for key in state if key.endswith("pos_embed")]
    assert (key, state[key].shape) == ("network.4.pos_embed", (1, 64, 4, 4))
    with pytest.raises(ValueError, match=r"network\.4\.pos_embed: of shape"):
        km.port_weights(large, state)
    with pytest.warns(UserWarning, match="Resized the learned positions"):
        km.port_weights(large, state, resize_tokens=True)
    moved = to_numpy(large.get_layer("stage_2_position_embedding").embeddings)
    theirs = np.moveaxis(state[key][0], 0, -1)
    assert moved.shape == (6, 8, 64)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):  # Corners stay.
        np.testing.assert_allclose(moved[row, column], theirs[row, column], rtol=1e-6)
