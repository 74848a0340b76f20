"""Each public layer through `run_layer_test`, with its formula in NumPy."""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import pytest

from keras_metaformer import blocks, layers
from tests.layer_checks import (
    Reference,
    check_reference,
    kernel_of,
    run_layer_test,
    to_numpy,
)
from tests.reference import formulas

MAP = (2, 5, 4, 8)  # neither square nor even, so that swapped axes show
SEQUENCE = (2, 6, 8)


@dataclasses.dataclass(frozen=True)
class Case:
    make: Callable[..., keras.layers.Layer]
    trainable: int = 0
    frozen: int = 0
    input_shape: Sequence[int] = MAP
    output_shape: Sequence[int] | None = None
    reference: Reference | None = None


def _bias(layer):
    return to_numpy(layer.bias).astype("float64") if layer.use_bias else 0.0


def _star_relu(layer, x):
    return formulas.star_relu(x, to_numpy(layer.scale), to_numpy(layer.bias))


def _channel_scale(layer, x):
    return x * to_numpy(layer.scale)


def _depthwise(layer, x):
    y = formulas.depthwise_convolution(
        x, kernel_of(layer), layer.strides, layer.dilation_rate
    )
    return y + _bias(layer)


def _separable(layer, x):
    hidden = x @ kernel_of(layer.expand) + _bias(layer.expand)
    if isinstance(layer.activation, layers.StarReLU):
        hidden = _star_relu(layer.activation, hidden)
    else:
        hidden = formulas.gelu(hidden)
    hidden = _depthwise(layer.depthwise, hidden)
    if layer.output_activation is not None:
        hidden = np.maximum(hidden, 0.0)
    return hidden @ kernel_of(layer.project) + _bias(layer.project)


def _convolution(layer, x):
    inner = layer.convolution
    kernel = kernel_of(inner)
    if x.ndim == 3:  # The middle column of a kernel, on a map of width 1.
        column = np.zeros((len(kernel), *kernel.shape))
        column[:, len(kernel) // 2] = kernel
        y = formulas.convolution(formulas.as_map(x), column, 1, len(kernel) // 2)
        return y[:, :, 0] + _bias(inner)
    return formulas.convolution(x, kernel, 1, len(kernel) // 2) + _bias(inner)


def _depthwise_separable(layer, x):
    hidden = _depthwise(layer.depthwise, x)
    return hidden @ kernel_of(layer.project) + _bias(layer.project)


def _class_token(layer, x):
    token = np.broadcast_to(to_numpy(layer.token), (len(x), 1, x.shape[-1]))
    return np.concatenate([token, _tokens(x)], axis=1)


def _attention(layer, x):
    return formulas.self_attention(
        x,
        kernel_of(layer.qkv),
        _bias(layer.qkv),
        kernel_of(layer.output_projection),
        _bias(layer.output_projection),
        layer.head_dim,
    )


def _meta_attention(layer, x):
    qkv = np.concatenate(
        [kernel_of(part) for part in (layer.query, layer.key, layer.value)], axis=1
    )
    return formulas.self_attention(
        x, qkv, 0.0, kernel_of(layer.projection), 0.0, layer.interaction.head_dim
    )


def _affine(layer, x):
    offset = to_numpy(layer.offset) if layer.use_bias else 0.0
    return formulas.affine(x, to_numpy(layer.scale), offset)


def _tokens(x):
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _token_linear(layer, x):
    return formulas.token_linear(
        x, kernel_of(layer), np.broadcast_to(_bias(layer), (layer.units,))
    )


def _token_mlp(layer, x):
    hidden = formulas.gelu(_token_linear(layer.expand, _tokens(x)))
    return _token_linear(layer.project, hidden).reshape(x.shape)


def _gate(layer, x):
    kept, gate = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    normed = formulas.normalize(gate, -1, layer.norm_epsilon)
    normed = formulas.affine(
        normed, to_numpy(layer.norm.gamma), to_numpy(layer.norm.beta)
    )
    mixed = _token_linear(layer.projection, _tokens(normed))
    return kept * mixed.reshape(gate.shape)


def _gated_mlp(layer, x):
    hidden = formulas.gelu(x @ kernel_of(layer.expand) + _bias(layer.expand))
    hidden = _gate(layer.gate, hidden)
    return hidden @ kernel_of(layer.project) + _bias(layer.project)


def _squeeze(layer, x):
    pooled = x.mean(axis=(1, 2), keepdims=True)
    hidden = pooled @ kernel_of(layer.squeeze) + to_numpy(layer.squeeze.bias)
    hidden = np.maximum(hidden, 0.0) @ kernel_of(layer.excite)
    return x * formulas.sigmoid(hidden + to_numpy(layer.excite.bias))


def _batch_norm(layer, x):
    normed = (x - to_numpy(layer.moving_mean)) / np.sqrt(
        to_numpy(layer.moving_variance).astype("float64") + 1e-5
    )
    offset = to_numpy(layer.beta) if layer.center else 0.0
    return formulas.affine(normed, to_numpy(layer.gamma), offset)


def _normalized_dense(layer, x):
    return _batch_norm(layer.norm, x @ kernel_of(layer.linear))


def _normalized_depthwise(layer, x):
    return _batch_norm(layer.norm, _depthwise(layer.linear, x))


def _branches(layer, x):
    return _normalized_depthwise(layer.large, x) + _normalized_depthwise(layer.small, x)


def _ffnified(layer, x):
    hidden = _normalized_dense(layer.query, x)
    hidden = formulas.gelu(_depthwise(layer.interaction, hidden))
    return _depthwise(layer.aggregation, hidden)


def _ffnified_branches(layer, x):
    hidden = _normalized_dense(layer.query, x)
    return _branches(
        layer.aggregation, formulas.gelu(_branches(layer.interaction, hidden))
    )


def _convnext(layer, x):
    query = _branches if hasattr(layer.query, "large") else _normalized_depthwise
    hidden = query(layer.query, x) @ kernel_of(layer.interaction)
    hidden = formulas.gelu(hidden + _bias(layer.interaction))
    return hidden @ kernel_of(layer.aggregation) + _bias(layer.aggregation)


def _image_norm(layer, x):
    normed = formulas.normalize(x, (1, 2, 3), layer.epsilon)
    if layer.scale:
        normed = normed * to_numpy(layer.gamma)
    return normed + to_numpy(layer.beta) if layer.center else normed


# Small kernels: JAX takes long to compile large ones.
CASES = {
    "ImageNormalization": Case(
        layers.ImageNormalization, trainable=2, reference=_image_norm
    ),
    "ImageNormalization-no-bias": Case(
        lambda **kw: layers.ImageNormalization(center=False, **kw),
        trainable=1,
        reference=_image_norm,
    ),
    "ImageNormalization-no-scale": Case(
        lambda **kw: layers.ImageNormalization(1e-3, scale=False, **kw),
        trainable=1,
        reference=_image_norm,
    ),
    "StarReLU": Case(layers.StarReLU, trainable=2, reference=_star_relu),
    "StarReLU-paper-learned-bias": Case(
        lambda **kw: layers.StarReLU("paper", learn_scale=False, **kw),
        trainable=1,
        frozen=1,
        reference=_star_relu,
    ),
    "StarReLU-pair-learned-scale": Case(
        lambda **kw: layers.StarReLU((0.5, 0.25), learn_bias=False, **kw),
        trainable=1,
        frozen=1,
        reference=_star_relu,
    ),
    "StarReLU-fixed": Case(
        lambda **kw: layers.StarReLU(learn_scale=False, learn_bias=False, **kw),
        frozen=2,
        reference=_star_relu,
    ),
    "SquaredReLU": Case(
        layers.SquaredReLU, reference=lambda _, x: formulas.squared_relu(x)
    ),
    "GELU": Case(layers.GELU, reference=lambda _, x: formulas.gelu(x)),
    "GELU-tanh": Case(
        lambda **kw: layers.GELU(approximate=True, **kw),
        reference=lambda _, x: formulas.gelu_tanh(x),
    ),
    "ResScale": Case(layers.ResScale, trainable=1, reference=_channel_scale),
    "LayerScale": Case(
        lambda **kw: layers.LayerScale(0.5, **kw),
        trainable=1,
        reference=_channel_scale,
    ),
    # Nothing is dropped outside training; training has tests of its own.
    "Dropout": Case(
        lambda **kw: layers.Dropout(0.25, seed=1, **kw), reference=lambda layer, x: x
    ),
    "StochasticDepth": Case(
        lambda **kw: layers.StochasticDepth(0.25, seed=1, **kw),
        reference=lambda _, x: x,
    ),
    "IdentityMixer": Case(layers.IdentityMixer, reference=lambda _, x: x),
    "PoolingMixer": Case(
        layers.PoolingMixer, reference=lambda _, x: formulas.pooling_mixer(x)
    ),
    "PoolingMixer-5": Case(
        lambda **kw: layers.PoolingMixer(5, **kw),
        reference=lambda _, x: formulas.pooling_mixer(x, 5),
    ),
    "RandomMixer": Case(
        lambda **kw: layers.RandomMixer(seed=3, **kw),
        frozen=1,
        reference=lambda layer, x: formulas.random_mixer(
            x, to_numpy(layer.random_matrix).astype("float64")
        ),
    ),
    "DepthwiseConvolution": Case(
        lambda **kw: layers.DepthwiseConvolution(5, **kw),
        trainable=1,
        reference=_depthwise,
    ),
    "DepthwiseConvolution-strided": Case(
        lambda **kw: layers.DepthwiseConvolution(3, 2, 2, use_bias=True, **kw),
        trainable=2,
        output_shape=(2, 3, 2, 16),
        reference=_depthwise,
    ),
    "DepthwiseConvolution-dilated": Case(
        lambda **kw: layers.DepthwiseConvolution(3, dilation_rate=2, **kw),
        trainable=1,
        reference=_depthwise,
    ),
    "SeparableConvolutionMixer-dilated": Case(
        lambda **kw: layers.SeparableConvolutionMixer(
            3, output_activation="relu", dilation_rate=2, **kw
        ),
        trainable=5,
        reference=_separable,
    ),
    "SeparableConvolutionMixer": Case(
        lambda **kw: layers.SeparableConvolutionMixer(3, **kw),
        trainable=5,
        reference=_separable,
    ),
    "SeparableConvolutionMixer-biased": Case(
        lambda **kw: layers.SeparableConvolutionMixer(
            3, 3, activation="gelu", use_bias=True, **kw
        ),
        trainable=6,
        reference=_separable,
    ),
    "ConvolutionMixer": Case(
        layers.ConvolutionMixer, trainable=1, reference=_convolution
    ),
    "ConvolutionMixer-biased": Case(
        lambda **kw: layers.ConvolutionMixer(5, use_bias=True, **kw),
        trainable=2,
        reference=_convolution,
    ),
    "DepthwiseSeparableMixer": Case(
        layers.DepthwiseSeparableMixer, trainable=2, reference=_depthwise_separable
    ),
    "DepthwiseSeparableMixer-biased": Case(
        lambda **kw: layers.DepthwiseSeparableMixer(use_bias=True, **kw),
        trainable=4,
        reference=_depthwise_separable,
    ),
    "PositionEmbedding": Case(
        lambda **kw: layers.PositionEmbedding("random_normal", **kw),
        trainable=1,
        reference=lambda layer, x: x + to_numpy(layer.embeddings),
    ),
    "ClassToken": Case(
        layers.ClassToken, trainable=1, output_shape=(2, 21, 8), reference=_class_token
    ),
    "FirstToken": Case(
        layers.FirstToken,
        input_shape=SEQUENCE,
        output_shape=(2, 8),
        reference=lambda _, x: x[:, 0],
    ),
    "SelfAttentionMixer": Case(
        lambda **kw: layers.SelfAttentionMixer(4, **kw),
        trainable=2,
        reference=_attention,
    ),
    "SelfAttentionMixer-biased": Case(
        lambda **kw: layers.SelfAttentionMixer(8, use_bias=True, **kw),
        trainable=4,
        reference=_attention,
    ),
    # Two heads of 3 channels, beside 8 of the map.
    "SelfAttentionMixer-heads": Case(
        lambda **kw: layers.SelfAttentionMixer(
            3,
            use_bias=(False, True),
            attention_dropout=0.2,
            projection_dropout=0.2,
            seed=1,
            **kw,
        ),
        trainable=3,
        reference=_attention,
    ),
    "MetaMixer": Case(
        lambda dtype=None, **kw: layers.MetaMixer(
            keras.layers.Dense(8, use_bias=False, dtype=dtype),
            layers.DepthwiseConvolution(3, dtype=dtype),
            layers.GELU(dtype=dtype),
            layers.DepthwiseConvolution(3, dtype=dtype),
            dtype=dtype,
            **kw,
        ),
        trainable=3,
        reference=lambda layer, x: _depthwise(
            layer.aggregation,
            formulas.gelu(_depthwise(layer.interaction, x @ kernel_of(layer.query))),
        ),
    ),
    "MetaMixer-attention-of-sequences": Case(
        lambda dtype=None, **kw: layers.MetaMixer(
            *(
                keras.layers.Dense(8, use_bias=False, dtype=dtype),
                layers.ScaledDotProduct(4, dtype=dtype),
                keras.layers.Softmax(dtype=dtype),
                layers.WeightedSum(dtype=dtype),
            ),
            key=keras.layers.Dense(8, use_bias=False, dtype=dtype),
            value=keras.layers.Dense(8, use_bias=False, dtype=dtype),
            projection=keras.layers.Dense(8, use_bias=False, dtype=dtype),
            dtype=dtype,
            **kw,
        ),
        trainable=4,
        input_shape=SEQUENCE,
        reference=_meta_attention,
    ),
    "Affine": Case(layers.Affine, trainable=2, reference=_affine),
    "Affine-no-bias": Case(
        lambda **kw: layers.Affine(use_bias=False, **kw),
        trainable=1,
        reference=_affine,
    ),
    "TokenLinear": Case(
        lambda **kw: layers.TokenLinear(3, **kw),
        trainable=2,
        input_shape=(2, 5, 8),
        output_shape=(2, 3, 8),
        reference=_token_linear,
    ),
    "CrossPatchLinear": Case(
        layers.CrossPatchLinear,
        trainable=2,
        reference=lambda layer, x: _token_linear(layer.linear, _tokens(x)).reshape(
            x.shape
        ),
    ),
    "CrossPatchLinear-no-bias": Case(
        lambda **kw: layers.CrossPatchLinear(use_bias=False, **kw),
        trainable=1,
        reference=lambda layer, x: _token_linear(layer.linear, _tokens(x)).reshape(
            x.shape
        ),
    ),
    "TokenMLP-no-bias": Case(
        lambda **kw: layers.TokenMLP(use_bias=False, dropout=0.2, seed=1, **kw),
        trainable=2,
        reference=_token_mlp,
    ),
    "TokenMLP": Case(layers.TokenMLP, trainable=4, reference=_token_mlp),
    "TokenMLP-ratio-of-tokens": Case(
        lambda **kw: layers.TokenMLP(0.25, ratio_of="tokens", **kw),
        trainable=4,
        reference=_token_mlp,
    ),
    "SpatialGatingUnit": Case(
        layers.SpatialGatingUnit,
        trainable=4,
        output_shape=(2, 5, 4, 4),
        reference=_gate,
    ),
    "GatedMLP": Case(layers.GatedMLP, trainable=8, reference=_gated_mlp),
    "GatedMLP-no-bias": Case(
        lambda **kw: layers.GatedMLP(use_bias=False, dropout=0.2, seed=1, **kw),
        trainable=6,
        reference=_gated_mlp,
    ),
    "SqueezeExcitation": Case(
        layers.SqueezeExcitation, trainable=4, reference=_squeeze
    ),
    "BatchNormalized": Case(
        lambda dtype=None, **kw: layers.BatchNormalized(
            keras.layers.Dense(4, use_bias=False, dtype=dtype), dtype=dtype, **kw
        ),
        trainable=3,
        frozen=2,
        output_shape=(2, 5, 4, 4),
        reference=_normalized_dense,
    ),
    "BatchNormalizedSkip": Case(
        layers.BatchNormalizedSkip,
        trainable=3,
        frozen=2,
        reference=lambda layer, x: (
            x + _batch_norm(layer.norm, x) @ kernel_of(layer.linear)
        ),
    ),
    "ReparameterizableDepthwise": Case(
        lambda **kw: layers.ReparameterizableDepthwise(3, 2, 2, **kw),
        trainable=6,
        frozen=4,
        output_shape=(2, 3, 2, 16),
        reference=_branches,
    ),
    "FFNifiedAttention": Case(
        lambda **kw: layers.FFNifiedAttention(3, **kw),
        trainable=7,
        frozen=2,
        reference=_ffnified,
    ),
    "FFNifiedAttention-no-bias": Case(
        lambda **kw: layers.FFNifiedAttention(3, use_bias=False, **kw),
        trainable=4,
        frozen=2,
        reference=_ffnified,
    ),
    "ConvNeXtChannelMixer-no-bias": Case(
        lambda **kw: layers.ConvNeXtChannelMixer(
            3, 2, use_bias=False, dropout=0.2, seed=1, **kw
        ),
        trainable=4,
        frozen=2,
        reference=_convnext,
    ),
    "FFNifiedAttention-pair-of-sizes-branches": Case(
        lambda **kw: layers.FFNifiedAttention((5, 3), branches=True, **kw),
        trainable=15,
        frozen=10,
        reference=_ffnified_branches,
    ),
    "FFNifiedAttention-large-without-branches": Case(
        lambda **kw: layers.FFNifiedAttention(7, branches=False, **kw),
        trainable=7,
        frozen=2,
        reference=_ffnified,
    ),
    "ConvNeXtChannelMixer-large-without-branches": Case(
        lambda **kw: layers.ConvNeXtChannelMixer(7, 2, branches=False, **kw),
        trainable=7,
        frozen=2,
        reference=_convnext,
    ),
    "ConvNeXtChannelMixer": Case(
        lambda **kw: layers.ConvNeXtChannelMixer(3, 2, **kw),
        trainable=7,
        frozen=2,
        reference=_convnext,
    ),
    "ConvNeXtChannelMixer-branched": Case(
        lambda **kw: layers.ConvNeXtChannelMixer(7, 2, **kw),
        trainable=10,
        frozen=4,
        reference=_convnext,
    ),
}
# The mixers of tokens, and what they are made of, take sequences as they take maps.
CASES |= {
    f"{name}-sequence": dataclasses.replace(
        CASES[name], input_shape=SEQUENCE, output_shape=output_shape
    )
    for name, output_shape in {
        "IdentityMixer": None,
        "PoolingMixer-5": None,
        "ConvolutionMixer-biased": None,
        "DepthwiseSeparableMixer-biased": None,
        "PositionEmbedding": None,
        "ClassToken": (2, 7, 8),
        "RandomMixer": None,
        "DepthwiseConvolution-strided": (2, 3, 16),
        "SeparableConvolutionMixer-biased": None,
        "SelfAttentionMixer-biased": None,
        "CrossPatchLinear": None,
        "TokenMLP": None,
        "SpatialGatingUnit": (2, 6, 4),
        "GatedMLP": None,
        "ReparameterizableDepthwise": (2, 3, 16),
        "FFNifiedAttention": None,
        "ConvNeXtChannelMixer-branched": None,
    }.items()
}
#: These take two inputs: they are checked inside the mixer that they are parts of.
PARTS_OF_ATTENTION = ("ScaledDotProduct", "WeightedSum")


#: Other arguments of a layer that another case has: `"Affine-no-bias"`.
VARIANTS = tuple(name for name in CASES if "-" in name)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_formula_of_variants(name):
    case = CASES[name]
    assert case.reference is not None
    check_reference(case.make, case.input_shape, case.reference)


# Variants are trained, saved and run in half precision on one backend: what else they
# are is that of the layer.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.one_backend if name in VARIANTS else ())
        for name in CASES
    ],
)
def test_layer(name, tmp_path):
    case = CASES[name]
    run_layer_test(
        case.make,
        case.input_shape,
        tmp_path,
        trainable=case.trainable,
        frozen=case.frozen,
        output_shape=case.output_shape,
        reference=case.reference,
    )


def test_self_attention_as_a_meta_mixer(tmp_path):
    def make(dtype=None, **kwargs):
        with_policy = keras.config.dtype_policy()
        try:
            if dtype is not None:
                keras.config.set_dtype_policy(dtype)
            return layers.MetaMixer.self_attention(8, head_dim=4, **kwargs)
        finally:
            keras.config.set_dtype_policy(with_policy)

    run_layer_test(make, MAP, tmp_path, trainable=4, reference=_meta_attention)


@pytest.mark.backend_independent
def test_every_public_layer_is_checked():
    checked = {name.split("-")[0] for name in CASES} | set(PARTS_OF_ATTENTION)
    # `Composite` is an abstract base, and test_every_block.py checks the blocks.
    assert checked == set(layers.__all__) - {"Composite", *blocks.__all__}
