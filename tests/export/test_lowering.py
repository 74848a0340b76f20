"""The export graph of every layer computes what the layer's Keras call does."""

from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer import blocks, layers
from keras_metaformer.arrays import to_numpy
from tests.export.models import SMALL_MODELS, shake

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="the export graph is made on the TensorFlow backend only",
)

SOFTMAX: Any = keras.layers.Softmax
LAYERS = {
    "dense": lambda: keras.layers.Dense(5, activation="relu"),
    "convolution": lambda: keras.layers.Conv2D(5, 3, padding="same"),
    "strided_convolution": lambda: keras.layers.Conv2D(5, 3, 2, activation="sigmoid"),
    "layer_norm": keras.layers.LayerNormalization,
    "group_norm": lambda: keras.layers.GroupNormalization(1),
    "two_groups": lambda: keras.layers.GroupNormalization(2),
    "batch_norm": keras.layers.BatchNormalization,
    "rescaling": lambda: keras.layers.Rescaling(0.5, 3.0),
    "average": keras.layers.GlobalAveragePooling2D,
    "maximum": keras.layers.GlobalMaxPooling2D,
    "affine": layers.Affine,
    "star_relu": lambda: layers.StarReLU("paper"),
    "squared_relu": layers.SquaredReLU,
    "gelu": layers.GELU,
    "gelu_tanh": lambda: layers.GELU(approximate=True),
    "res_scale": lambda: layers.ResScale(0.5),
    "layer_scale": lambda: layers.LayerScale(0.5),
    "stochastic_depth": lambda: layers.StochasticDepth(0.5),
    "depthwise_3": lambda: layers.DepthwiseConvolution(3),
    "depthwise_7": lambda: layers.DepthwiseConvolution(7, use_bias=True),
    "depthwise_strided": lambda: layers.DepthwiseConvolution(7, 2, use_bias=True),
    "depthwise_multiplied": lambda: layers.DepthwiseConvolution(
        7, 2, depth_multiplier=2, use_bias=True
    ),
    "depthwise_3_strided": lambda: layers.DepthwiseConvolution(3, 2),
    "depthwise_dilated": lambda: layers.DepthwiseConvolution(
        7, use_bias=True, dilation_rate=2
    ),
    "depthwise_31": lambda: layers.DepthwiseConvolution(31),
    "batch_normalized": lambda: layers.BatchNormalized(layers.DepthwiseConvolution(3)),
    "reparameterizable": lambda: layers.ReparameterizableDepthwise(7),
    "squeeze_excitation": layers.SqueezeExcitation,
    "pooling": layers.PoolingMixer,
    "random": lambda: layers.RandomMixer(seed=0),
    "plain_convolution": lambda: layers.ConvolutionMixer(use_bias=True),
    "depthwise_separable": lambda: layers.DepthwiseSeparableMixer(use_bias=True),
    "position_embedding": layers.PositionEmbedding,
    "class_token": layers.ClassToken,
    "separable": layers.SeparableConvolutionMixer,
    "separable_bias": lambda: layers.SeparableConvolutionMixer(use_bias=True),
    "attention": lambda: layers.SelfAttentionMixer(4, use_bias=True),
    "attention_heads": lambda: layers.SelfAttentionMixer(
        3, use_bias=(False, True), attention_dropout=0.1, projection_dropout=0.1
    ),
    "attention_by_parts": lambda: layers.MetaMixer.self_attention(8, 4),
    "token_mlp": layers.TokenMLP,
    "token_mlp_no_bias": lambda: layers.TokenMLP(use_bias=False, dropout=0.1),
    "affine_no_bias": lambda: layers.Affine(use_bias=False),
    "separable_dilated": lambda: layers.SeparableConvolutionMixer(
        output_activation="relu", dilation_rate=2
    ),
    "convnext_dropout": lambda: layers.ConvNeXtChannelMixer(
        3, use_bias=False, dropout=0.1
    ),
    "token_mlp_softmax": lambda: layers.TokenMLP(activation=SOFTMAX),
    "cross_patch": layers.CrossPatchLinear,
    "gated": layers.GatedMLP,
    "gated_no_bias": lambda: layers.GatedMLP(use_bias=False, dropout=0.1),
    "gated_softmax": lambda: layers.GatedMLP(activation=SOFTMAX),
    "spatial_gating": layers.SpatialGatingUnit,
    "ffnified": lambda: layers.FFNifiedAttention(7),
    "convnext": lambda: layers.ConvNeXtChannelMixer(7),
    "channel_mlp": blocks.ChannelMLP,
    "patch_merging": blocks.PatchMerging,
    "stem": lambda: blocks.Downsampling(
        8, 7, 4, 2, pre_norm=layers.Affine(), post_norm=layers.Affine()
    ),
}


#: What takes no sequences.
OF_MAPS = (
    "convolution",
    "strided_convolution",
    "average",
    "maximum",
    "squeeze_excitation",
    "patch_merging",
    "stem",
)
CASES = [(name, size) for name in LAYERS for size in ((9, 8), (2, 3))]
CASES += [(name, (7,)) for name in LAYERS if name not in OF_MAPS]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_layer(name, size):
    from keras_metaformer.export.lowering import Value, lower

    if name in ("stem", "strided_convolution") and size == (2, 3):
        size = (7, 8)  # The smallest that their kernels take.
    layer = LAYERS[name]()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, *size, 8)).astype("float32")
    layer.build(x.shape)
    shake(layer)
    # What waits to be multiplied and added must not be lost either.
    scale, offset = rng.uniform(0.5, 2, 8), rng.standard_normal(8)
    expected = to_numpy(layer((x * scale + offset).astype("float32")))
    got = lower(layer, Value(keras.ops.convert_to_tensor(x), scale, offset))
    np.testing.assert_allclose(
        to_numpy(got.computed()), expected, rtol=2e-4, atol=2e-5 * abs(expected).max()
    )


@pytest.mark.parametrize("name", SMALL_MODELS)
def test_model(name):
    from keras_metaformer.export.lowering import Value, lower_model
    from keras_metaformer.inference.folding import fold

    model = SMALL_MODELS[name]()
    x = np.random.default_rng(1).standard_normal((1, 64, 64, 3)).astype("float32")
    expected = to_numpy(model(x))
    for candidate in (model, fold(model)):
        got = lower_model(candidate, Value(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(to_numpy(got.computed()), expected, atol=1e-5)


def test_classes_with_another_call_are_traced():
    from keras_metaformer.export.lowering import Value, is_traced, lower

    class Halved(keras.layers.Dense):
        def call(self, inputs):
            return keras.ops.multiply(0.5, super().call(inputs))

    class Dropping(keras.layers.Dropout):
        def call(self, inputs, training=False):
            return super().call(inputs, training=True)

    x = np.random.default_rng(1).standard_normal((1, 4, 4, 8)).astype("float32")
    for layer in (Halved(8), blocks.ChannelMLP(activation=lambda: Halved(32))):
        expected = to_numpy(layer(x))
        got = lower(layer, Value(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(to_numpy(got.computed()), expected, atol=1e-5)
    got = lower(Dropping(0.5), Value(keras.ops.convert_to_tensor(x)))
    assert is_traced(Dropping(0.5)) and (to_numpy(got.computed()) == 0).any()
    assert not is_traced(layers.Dropout(0.5))


def test_models_that_are_no_plain_graph():
    from keras_metaformer.export.lowering import Value, lower_model

    shared = keras.layers.Dense(8)
    image = keras.Input((4, 4, 8))
    twice = keras.Model(image, shared(shared(image) + 1.0))
    nested = keras.Sequential([keras.Input((4, 4, 8)), twice, keras.layers.ReLU()])
    joined = keras.Model(
        image, keras.layers.Add()([twice(image), keras.layers.Dense(8)(image)])
    )
    x = np.random.default_rng(1).standard_normal((1, 4, 4, 8)).astype("float32")
    for model in (twice, nested, joined):
        got = lower_model(model, Value(keras.ops.convert_to_tensor(x)))
        np.testing.assert_allclose(
            to_numpy(got.computed()), to_numpy(model(x)), atol=1e-5
        )


def test_large_scale_next_to_small_one():
    """An offset is not divided by a factor that vanishes."""
    from keras_metaformer.export.lowering import Value, lower

    layer = layers.DepthwiseConvolution(3)
    layer.build((1, 4, 4, 2))
    x = np.ones((1, 4, 4, 2), "float32")
    value = Value(keras.ops.convert_to_tensor(x), np.array([0.0, 1.0]), 2.0)
    shifted = np.broadcast_to([2.0, 3.0], x.shape).astype("float32")
    expected = to_numpy(layer(shifted))
    np.testing.assert_allclose(to_numpy(lower(layer, value).computed()), expected, 1e-5)
