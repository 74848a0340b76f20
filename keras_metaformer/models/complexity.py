"""Multiply-accumulate operations of a model, from its shapes."""

import functools
import math
from typing import Any

import keras

from keras_metaformer.blocks import (
    ChannelMLP,
    Downsampling,
    MetaFormerBlock,
    PatchMerging,
    ResidualBranch,
)
from keras_metaformer.layers import (
    BatchNormalized,
    BatchNormalizedSkip,
    CrossPatchLinear,
    DepthwiseConvolution,
    GatedMLP,
    MetaMixer,
    RandomMixer,
    ReparameterizableDepthwise,
    ScaledDotProduct,
    SelfAttentionMixer,
    SeparableConvolutionMixer,
    SpatialGatingUnit,
    SqueezeExcitation,
    TokenLinear,
    TokenMLP,
    WeightedSum,
)


def count_macs(model: keras.Model) -> int:
    """Multiply-accumulate operations of a model for one image.

    Counted are linear layers, convolutions and the matrix products of attention and of
    random mixing. Norms, activations, pooling, scales and additions are not: they are
    no matrix products, and papers count them in different ways.

    Args:
        model: functional model with known input shapes. A layer of your own that
            multiplies matrices must have a method `count_macs(input_shape) -> int`.

    Returns:
        The number of multiply-accumulate operations.

    Raises:
        TypeError: if a layer has a matrix of weights and is not known here.
        ValueError: if a shape is not fully known.
    """
    return sum(
        layer_macs(layer, tuple(layer.input.shape))
        for layer in model.layers
        if layer.weights
    )


@functools.singledispatch
def layer_macs(layer: keras.layers.Layer, input_shape: tuple) -> int:
    """Multiply-accumulate operations of one layer for one image."""
    if hasattr(layer, "count_macs"):
        return layer.count_macs(input_shape)
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise TypeError(
            f"{type(layer).__name__} has matrices of weights, but no method "
            f"`count_macs(input_shape)`. Received: layer={layer.name!r}"
        )
    return 0


def _positions(shape: tuple) -> int:
    """Positions of a map, or 1 for pooled features."""
    sizes = shape[1:-1]
    if None in sizes:
        raise ValueError(
            "Operations can be counted for known image sizes only: build the model "
            f"with `input_shape`. Received: shape={shape}"
        )
    return math.prod(sizes)


def _elements(shape: tuple) -> int:
    """Values of one image's map."""
    return _positions(shape) * shape[-1]


@layer_macs.register
def _(layer: keras.layers.Dense, input_shape: tuple) -> int:
    return _positions(input_shape) * input_shape[-1] * layer.units


@layer_macs.register
def _(layer: keras.layers.Conv2D, input_shape: tuple) -> int:
    outputs = _elements(layer.compute_output_shape(input_shape))
    return outputs * math.prod(layer.kernel_size) * input_shape[-1] // layer.groups


@layer_macs.register
def _(layer: DepthwiseConvolution, input_shape: tuple) -> int:
    outputs = _elements(layer.compute_output_shape(input_shape))
    return outputs * layer.kernel_size**2


@layer_macs.register
def _(layer: RandomMixer, input_shape: tuple) -> int:
    return _positions(input_shape) ** 2 * input_shape[-1]


@layer_macs.register
def _(layer: SelfAttentionMixer, input_shape: tuple) -> int:
    tokens, channels = _positions(input_shape), input_shape[-1]
    linear = 4 * tokens * channels**2
    return linear + 2 * tokens**2 * channels


@layer_macs.register
def _(layer: SeparableConvolutionMixer, input_shape: tuple) -> int:
    inner = (*input_shape[:-1], layer.expansion * input_shape[-1])
    return (
        layer_macs(layer.expand, input_shape)
        + layer_macs(layer.depthwise, inner)
        + layer_macs(layer.project, inner)
    )


@layer_macs.register
def _(layer: ChannelMLP, input_shape: tuple) -> int:
    return 2 * layer_macs(layer.expand, input_shape)


@layer_macs.register
def _(layer: ResidualBranch, input_shape: tuple) -> int:
    return layer_macs(layer.transform, input_shape)


@layer_macs.register
def _(layer: MetaFormerBlock, input_shape: tuple) -> int:
    parts = (layer.token_mixing, layer.between, layer.channel_mixing)
    return sum(layer_macs(part, input_shape) for part in parts if part is not None)


@layer_macs.register
def _(layer: Downsampling, input_shape: tuple) -> int:
    return layer_macs(layer.convolution, layer.padded_shape(input_shape))


@layer_macs.register
def _(layer: TokenLinear, input_shape: tuple) -> int:
    return input_shape[1] * layer.units * input_shape[2]


@layer_macs.register
def _(layer: TokenMLP, input_shape: tuple) -> int:
    tokens = _positions(input_shape)
    return 2 * tokens * layer.expand.units * input_shape[-1]


@layer_macs.register(CrossPatchLinear)
def _(layer: keras.layers.Layer, input_shape: tuple) -> int:
    return _positions(input_shape) ** 2 * input_shape[-1]


@layer_macs.register(SpatialGatingUnit)
def _(layer: keras.layers.Layer, input_shape: tuple) -> int:
    return _positions(input_shape) ** 2 * input_shape[-1] // 2


@layer_macs.register
def _(layer: GatedMLP, input_shape: tuple) -> int:
    hidden = (*input_shape[:-1], layer.ratio * input_shape[-1])
    gated = layer.gate.compute_output_shape(hidden)
    return (
        layer_macs(layer.expand, input_shape)
        + layer_macs(layer.gate, hidden)
        + layer_macs(layer.project, gated)
    )


@layer_macs.register(BatchNormalized)
@layer_macs.register(BatchNormalizedSkip)
def _(layer: Any, input_shape: tuple) -> int:
    return layer_macs(layer.linear, input_shape)


@layer_macs.register
def _(layer: ReparameterizableDepthwise, input_shape: tuple) -> int:
    return layer_macs(layer.large, input_shape) + layer_macs(layer.small, input_shape)


@layer_macs.register
def _(layer: PatchMerging, input_shape: tuple) -> int:
    merged = layer.depthwise.compute_output_shape(input_shape)
    return layer_macs(layer.depthwise, input_shape) + layer_macs(
        layer.projection, merged
    )


@layer_macs.register
def _(layer: SqueezeExcitation, input_shape: tuple) -> int:
    return 2 * input_shape[-1] * layer.squeeze.units


@layer_macs.register
def _(layer: MetaMixer, input_shape: tuple) -> int:
    total = 0

    def through(part: Any, shape: Any) -> Any:
        nonlocal total
        total += layer_macs(part, shape)
        return part.compute_output_shape(shape)

    shape = through(layer.query, input_shape)
    if layer.key is not None:
        shape = [shape, through(layer.key, input_shape)]
    shape = through(layer.activation, through(layer.interaction, shape))
    if layer.value is not None:
        shape = [shape, through(layer.value, input_shape)]
    shape = through(layer.aggregation, shape)
    if layer.projection is not None:
        through(layer.projection, shape)
    return total


@layer_macs.register(ScaledDotProduct)
def _(layer: keras.layers.Layer, input_shape: Any) -> int:
    queries, keys = input_shape
    return _positions(queries) * _positions(keys) * queries[-1]


@layer_macs.register(WeightedSum)
def _(layer: keras.layers.Layer, input_shape: Any) -> int:
    coefficients, values = input_shape
    return coefficients[-2] * coefficients[-1] * values[-1]
