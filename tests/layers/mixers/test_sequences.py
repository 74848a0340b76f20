"""Mixers on sequences `(batch, tokens, channels)`, inside models of them."""

from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from benchmarks.stock import stock_model
from keras_metaformer import blocks, layers
from keras_metaformer.models.complexity import count_macs
from keras_metaformer.weights.layouts import from_pytorch, to_pytorch
from keras_metaformer.weights.structure import weight_slots
from tests.layer_checks import randomize, to_numpy

TOKENS, CHANNELS = 12, 8
SEQUENCES = np.random.default_rng(0).normal(size=(2, TOKENS, CHANNELS))
SEQUENCES = SEQUENCES.astype("float32")
#: Each mixer and its multiply-accumulate operations.
MIXERS = {
    "identity": (layers.IdentityMixer, 0),
    "random": (layers.RandomMixer, TOKENS**2 * CHANNELS),
    "pooling": (layers.PoolingMixer, 0),
    "convolution": (layers.ConvolutionMixer, 3 * TOKENS * CHANNELS**2),
    "depthwise separable": (
        layers.DepthwiseSeparableMixer,
        TOKENS * CHANNELS * (3 + CHANNELS),
    ),
    "separable convolution": (
        layers.SeparableConvolutionMixer,
        TOKENS * 2 * CHANNELS * (7 + 2 * CHANNELS),
    ),
    "self-attention": (
        lambda: layers.SelfAttentionMixer(4),
        4 * TOKENS * CHANNELS**2 + 2 * TOKENS**2 * CHANNELS,
    ),
    "token MLP": (layers.TokenMLP, 2 * TOKENS * CHANNELS**2 // 2),
    "cross-patch linear": (layers.CrossPatchLinear, TOKENS**2 * CHANNELS),
    "gated MLP": (
        lambda: layers.GatedMLP(2),
        TOKENS * CHANNELS**2 * 3 + TOKENS**2 * CHANNELS,
    ),
    "FFNified attention": (
        lambda: layers.FFNifiedAttention(7),
        TOKENS * CHANNELS**2 + 2 * (7 + 3) * TOKENS * CHANNELS,
    ),
}


def _model(mixer: Any) -> Any:
    inputs = keras.Input((TOKENS, CHANNELS))
    step = blocks.ResidualBranch(
        mixer(),
        keras.layers.LayerNormalization(epsilon=1e-6),
        residual_scaling="branch",
        layer_scale_initial_value=0.5,
    )
    x = layers.PositionEmbedding()(inputs)
    model = keras.Model(inputs, step(x))
    randomize(model)
    return model


@pytest.mark.parametrize("name", MIXERS)
def test_a_block_of_a_sequence_is_counted_folded_and_written_in_stock_layers(name):
    mixer, macs = MIXERS[name]
    model = _model(mixer)
    expected = to_numpy(model(SEQUENCES))
    assert expected.shape == SEQUENCES.shape and expected.std() > 0.1
    assert count_macs(model) == macs
    for other in (km.fold(model), stock_model(model)):
        np.testing.assert_allclose(to_numpy(other(SEQUENCES)), expected, atol=2e-5)


def test_sequences_of_any_length():
    inputs = keras.Input((None, CHANNELS))
    x = layers.SelfAttentionMixer(4)(inputs)
    x = layers.FFNifiedAttention(3)(layers.PoolingMixer()(x))
    model = keras.Model(inputs, x)
    assert model.output_shape == (None, None, CHANNELS)
    for tokens in (TOKENS, 5):
        outputs = model.predict(SEQUENCES[:, :tokens], verbose=0)
        assert outputs.shape == (2, tokens, CHANNELS)


@pytest.mark.parametrize(
    "mixer",
    [layers.TokenMLP, layers.GatedMLP, layers.RandomMixer, layers.CrossPatchLinear],
)
def test_weights_for_every_token_need_their_number(mixer):
    with pytest.raises(ValueError, match=r"number of tokens.*\(tokens, channels\)"):
        mixer().build((None, None, CHANNELS))


@pytest.mark.parametrize(
    "mixer", [layers.PoolingMixer, layers.FFNifiedAttention, layers.TokenMLP]
)
def test_volumes_are_refused(mixer):
    with pytest.raises(ValueError, match=r"Received: input_shape=\(None, 4, 4, 4, 8\)"):
        mixer().build((None, 4, 4, 4, CHANNELS))


@pytest.mark.backend_independent
def test_one_dimensional_depthwise_kernels_in_pytorchs_order():
    model = keras.Sequential([layers.DepthwiseConvolution(3, depth_multiplier=2)])
    model.build((None, TOKENS, CHANNELS))
    (slot,) = weight_slots(model).values()
    kernel = np.arange(3 * CHANNELS * 2, dtype="float32").reshape(3, CHANNELS, 2)
    theirs = to_pytorch(slot, kernel)
    assert theirs.shape == (2 * CHANNELS, 1, 3)
    np.testing.assert_array_equal(theirs[2 * 5 + 1, 0], kernel[:, 5, 1])
    np.testing.assert_array_equal(from_pytorch(slot, theirs), kernel)
