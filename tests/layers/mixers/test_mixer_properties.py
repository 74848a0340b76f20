"""Properties of every token mixer, on maps of drawn sizes.

Where theory says that a mixer commutes with a permutation it is checked, and where it
says that a mixer does not, that is checked too: so each property is seen to fail.
"""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_metaformer import layers
from keras_metaformer.layers.mixers.table import TOKEN_MIXERS, make_token_mixer
from tests.backend_gradients import gradients
from tests.layer_checks import randomize, to_numpy

# Of the formulas, which test_every_layer.py checks on each backend.
pytestmark = pytest.mark.one_backend

# Narrow heads and small kernels, for small maps.
SMALL: dict[str, Callable[..., keras.layers.Layer]] = {
    "self_attention": lambda **kw: layers.SelfAttentionMixer(4, **kw),
    "separable_convolution": lambda **kw: layers.SeparableConvolutionMixer(3, **kw),
    "ffnified_attention": lambda **kw: layers.FFNifiedAttention(3, **kw),
    "meta_mixer": lambda **kw: layers.MetaMixer.self_attention(8, 4, **kw),
    "convnext": lambda **kw: layers.ConvNeXtChannelMixer(3, 2, **kw),
}
NAMES = sorted({*TOKEN_MIXERS, *SMALL})
#: Commute with every permutation of the tokens, or of the channels.
TOKENS_ARE_A_SET = {"identity", "self_attention", "meta_mixer"}
CHANNELS_ARE_ALIKE = {
    "identity",
    "pooling",
    "random",
    "token_mlp",
    "cross_patch_linear",
}
CHANNELS = 8

EXAMPLES = settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
# A few sizes for all tests: JAX compiles every operation anew for each.
GRIDS = st.sampled_from([(1, 1), (1, 6), (3, 5), (7, 4)])
SEEDS = st.integers(0, 999)


def _make(name: str, **kwargs) -> keras.layers.Layer:
    if name in SMALL:
        return SMALL[name](**kwargs)
    return make_token_mixer(name, activation="gelu", **kwargs)


def _random_mixer(name: str, shape, **kwargs) -> keras.layers.Layer:
    mixer = _make(name, **kwargs)
    mixer.build((None, *shape[1:]))
    randomize(mixer)
    return mixer


def _maps(seed: int, *shape: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(*shape, CHANNELS)).astype("float32")


def _apply(mixer: keras.layers.Layer, maps: np.ndarray) -> np.ndarray:
    return to_numpy(mixer(maps, training=False))


def _error(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, in units of the largest value."""
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-3))


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(grid=GRIDS, seed=SEEDS)
def test_shapes_are_kept_and_values_finite(name, grid, seed):
    maps = _maps(seed, 2, *grid)
    mixer = _random_mixer(name, maps.shape)
    outputs = _apply(mixer, maps)
    assert outputs.shape == maps.shape
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()
    assert tuple(mixer.compute_output_shape((None, *maps.shape[1:]))) == (
        None,
        *maps.shape[1:],
    )
    # Images of a batch do not see each other.
    np.testing.assert_allclose(outputs[:1], _apply(mixer, maps[:1]), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(
    policy=st.sampled_from(["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"]),
    grid=GRIDS,
)
def test_outputs_have_the_compute_dtype(name, policy, grid):
    maps = _maps(0, 2, *grid)
    outputs = _random_mixer(name, maps.shape, dtype=policy)(maps)
    expected = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == expected
    assert np.isfinite(to_numpy(keras.ops.cast(outputs, "float32"))).all()


@pytest.mark.parametrize("name", NAMES)
@EXAMPLES
@given(grid=GRIDS, seed=SEEDS)
def test_a_copy_through_the_config_computes_the_same(name, grid, seed):
    maps = _maps(seed, 2, *grid)
    mixer = _random_mixer(name, maps.shape)
    copy = type(mixer).from_config(mixer.get_config())
    copy.build((None, *maps.shape[1:]))
    copy.set_weights(mixer.get_weights())
    np.testing.assert_array_equal(_apply(copy, maps), _apply(mixer, maps))


@pytest.mark.parametrize("name", NAMES)
@settings(EXAMPLES, max_examples=2)
@given(grid=GRIDS)
def test_gradients_are_finite(name, grid):
    maps = _maps(1, 2, *grid)
    image = keras.Input(maps.shape[1:])
    # The layer in front has the gradient that passes through the mixer.
    hidden = keras.layers.Dense(CHANNELS, name="front")(image)
    model = keras.Model(image, _make(name)(hidden))
    randomize(model)
    found = gradients(model, maps)
    assert any("front" in path for path in found)
    for path, gradient in found.items():
        assert np.isfinite(gradient).all(), path
    if grid != (1, 1):
        assert max(np.abs(gradient).max() for gradient in found.values()) > 1e-4


def _permute_tokens(maps: np.ndarray, order: np.ndarray) -> np.ndarray:
    flat = maps.reshape(maps.shape[0], -1, maps.shape[-1])
    return flat[:, order].reshape(maps.shape)


@pytest.mark.parametrize("name", sorted(TOKENS_ARE_A_SET))
@EXAMPLES
@given(grid=GRIDS, seed=SEEDS)
def test_mixers_without_positions_commute_with_permutations_of_tokens(name, grid, seed):
    maps = _maps(seed, 2, *grid)
    order = np.random.default_rng(seed).permutation(grid[0] * grid[1])
    mixer = _random_mixer(name, maps.shape)
    permuted_first = _apply(mixer, _permute_tokens(maps, order))
    permuted_last = _permute_tokens(_apply(mixer, maps), order)
    assert _error(permuted_first, permuted_last) < 1e-5


@pytest.mark.parametrize("name", sorted(set(NAMES) - TOKENS_ARE_A_SET))
@EXAMPLES
@given(seed=SEEDS)
def test_the_others_know_where_a_token_is(name, seed):
    maps = _maps(seed, 2, 4, 5)
    order = np.roll(np.arange(20), 3)  # no symmetry of the map
    mixer = _random_mixer(name, maps.shape)
    permuted_first = _apply(mixer, _permute_tokens(maps, order))
    permuted_last = _permute_tokens(_apply(mixer, maps), order)
    assert _error(permuted_first, permuted_last) > 0.05


@pytest.mark.parametrize("name", sorted(CHANNELS_ARE_ALIKE))
@EXAMPLES
@given(grid=GRIDS, seed=SEEDS)
def test_mixers_without_weights_per_channel_commute_with_permutations_of_channels(
    name, grid, seed
):
    maps = _maps(seed, 2, *grid)
    order = np.random.default_rng(seed).permutation(CHANNELS)
    mixer = _random_mixer(name, maps.shape)
    permuted_first = _apply(mixer, maps[..., order])
    assert _error(permuted_first, _apply(mixer, maps)[..., order]) < 1e-5


@pytest.mark.parametrize("name", sorted(set(NAMES) - CHANNELS_ARE_ALIKE))
@EXAMPLES
@given(seed=SEEDS)
def test_the_others_know_which_channel_is_which(name, seed):
    maps = _maps(seed, 2, 4, 5)
    order = np.roll(np.arange(CHANNELS), 3)
    mixer = _random_mixer(name, maps.shape)
    permuted_first = _apply(mixer, maps[..., order])
    assert _error(permuted_first, _apply(mixer, maps)[..., order]) > 0.05


MOTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "up_down": lambda maps: maps[:, ::-1],
    "left_right": lambda maps: maps[:, :, ::-1],
    "quarter_turn": lambda maps: np.rot90(maps, axes=(1, 2)),
    "half_turn": lambda maps: np.rot90(maps, 2, axes=(1, 2)),
}


@pytest.mark.parametrize("motion", MOTIONS)
@EXAMPLES
@given(grid=GRIDS, size=st.sampled_from([1, 3, 5]), seed=SEEDS)
def test_pooling_commutes_with_flips_and_turns(motion, grid, size, seed):
    maps, move = _maps(seed, 2, *grid), MOTIONS[motion]
    pooling = layers.PoolingMixer(size)
    moved_first = _apply(pooling, np.ascontiguousarray(move(maps)))
    np.testing.assert_allclose(moved_first, move(_apply(pooling, maps)), atol=1e-5)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_convolution_does_not(motion):
    maps, move = _maps(0, 2, 5, 5), MOTIONS[motion]
    mixer = _random_mixer("separable_convolution", maps.shape)
    moved_first = _apply(mixer, np.ascontiguousarray(move(maps)))
    assert _error(moved_first, move(_apply(mixer, maps))) > 0.05


def test_every_mixer_is_covered():
    assert set(TOKEN_MIXERS) <= set(NAMES)
    assert set(NAMES) >= TOKENS_ARE_A_SET | CHANNELS_ARE_ALIKE
