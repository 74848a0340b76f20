"""The model as TFLite wants it: the same function in other operations.

Every layer is lowered, by a rule for its class, to TensorFlow operations on tensors of
batch 1, static shape and rank 4 at most that XNNPACK and GPU delegates run whole:

- a linear layer on a map is a 1x1 convolution, one over the tokens too, on the
  transposed map;
- a depthwise convolution of more than 25 taps is a sum of smaller ones, because
  XNNPACK's fast kernels stop there;
- attention has its queries, keys and values from three convolutions, each
  `(1, heads, tokens, head_dim)`;
- statistics are means, never sums, which would leave the range of float16;
- factors and offsets per channel (StarReLU's, a norm's, LayerScale's) wait until a
  linear layer takes them into its weights.

A `Composite` without a rule of its own is lowered as its flow says, any other layer
without one traced through its own Keras call. TensorFlow is imported
here, so this module is imported by what runs on Keras' TensorFlow backend only.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_metaformer.arrays import to_numpy
from keras_metaformer.blocks import (
    Downsampling,
    PatchMerging,
)
from keras_metaformer.inference.folding import scale_and_offset
from keras_metaformer.layers import (
    GELU,
    Affine,
    DepthwiseConvolution,
    GatedMLP,
    IdentityMixer,
    ImageNormalization,
    LayerScale,
    PoolingMixer,
    PositionEmbedding,
    RandomMixer,
    ResScale,
    ScaledDotProduct,
    SelfAttentionMixer,
    SpatialGatingUnit,
    SquaredReLU,
    SqueezeExcitation,
    StarReLU,
    StochasticDepth,
    TokenLinear,
    WeightedSum,
)
from keras_metaformer.layers.composite import Run, has_flow
from keras_metaformer.layers.rules import LayerRules
from keras_metaformer.models.pyramid_model import StageOutput

#: `(layer, value) -> Value` for what is lowered in a way of its own.
_RULES = LayerRules()

#: Taps of the largest depthwise kernel that XNNPACK has fast code for.
_FAST_TAPS = 25
#: Nothing, or what does nothing at inference.
_IDLE = (type(None), keras.layers.Dropout, StochasticDepth)
#: Activations that take each value by itself, whatever the order of the axes.
_ELEMENTWISE = (GELU, StarReLU, SquaredReLU, IdentityMixer, keras.layers.ReLU)


@dataclasses.dataclass(frozen=True)
class Value:
    """`tensor * scale + offset`, where the product and the sum are still to be done.

    Attributes:
        tensor: TensorFlow tensor `(1, ..., channels)`.
        scale: float64 array `(channels,)` or scalar.
        offset: likewise.
    """

    tensor: Any
    scale: np.ndarray | float = 1.0
    offset: np.ndarray | float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The static shape."""
        return tuple(self.tensor.shape)

    def computed(self) -> Any:
        """The tensor with product and sum done."""
        tensor = self.tensor
        if np.any(self.scale != 1.0):
            tensor = tensor * _constant(self.scale)
        if np.any(self.offset != 0.0):
            tensor = tensor + _constant(self.offset)
        return tensor

    def times(self, scale: np.ndarray | float) -> "Value":
        """The value times a factor per channel, still to be done."""
        return Value(self.tensor, self.scale * scale, self.offset * scale)

    def plus(self, offset: np.ndarray | float) -> "Value":
        """The value plus an offset per channel, still to be done."""
        return Value(self.tensor, self.scale, self.offset + offset)

    def with_offset(self) -> "Value":
        """The value with the sum done, for what a zero padding follows."""
        if not np.any(self.offset != 0.0):
            return self
        if np.all(np.abs(self.scale) > 1e-3 * np.abs(self.offset)):
            return Value(self.tensor + _constant(self.offset / self.scale), self.scale)
        return Value(self.computed())


def lower_model(model: keras.Model, value: Value) -> Value:
    """The operations of a whole model, applied to `value`.

    A functional model is lowered layer by layer, any other traced as a whole.
    """
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            value = lower(layer, value)
        return value
    if not hasattr(model, "_run_through_graph"):  # A subclassed model.
        return _traced(model, value)
    # A private name of Keras, but its own way to run a graph with other operations;
    # it knows layers that are used twice and models inside models.
    (output,) = keras.tree.flatten(
        model._run_through_graph(
            [value], lambda layer: functools.partial(_called, layer)
        )
    )
    return output


def _called(operation: Any, *arguments: Any, **options: Any) -> Value:
    if isinstance(operation, keras.layers.Layer) and len(arguments) == 1:
        return lower(operation, arguments[0])

    def computed(argument: Any) -> Any:
        return argument.computed() if isinstance(argument, Value) else argument

    return Value(operation(*keras.tree.map_structure(computed, arguments), **options))


def lower(layer: Any, value: Any) -> Value:
    """The operations of one layer, applied to a `Value` or a list of them.

    Args:
        layer: a layer with a rule for its class, a `Composite`, which follows its flow,
            a model, or any other, which is traced through its Keras call.
        value: what goes into it.
    """
    rule = _RULES.of(layer)
    if rule is not None:
        return rule(layer, value)
    if has_flow(layer):
        return layer.flow(_Lowering(layer), value)
    if isinstance(layer, keras.Model):
        return lower_model(layer, value)
    return _traced(layer, value)


class _Lowering(Run):
    """The flow of `Value`s."""

    def step(self, layer, x):
        return lower(layer, x)

    def add(self, x, branch, scale=None):
        return _sum(x if scale is None else lower(scale, x), branch)

    def over_tokens(self, x, *layers):
        steps = [layer for layer in layers if not isinstance(layer, _IDLE)]
        if not all(type(each) in (TokenLinear, *_ELEMENTWISE) for each in steps):
            batch, *sizes, channels = x.shape
            flat = tf.reshape(x.computed(), (batch, math.prod(sizes), channels))
            tokens = self(Value(flat), *steps).computed()
            return Value(tf.reshape(tokens, (batch, *sizes, tokens.shape[-1])))
        # The tokens as channels, where a linear layer over them is a 1x1 convolution.
        value = _over_tokens(x.computed())
        for layer in steps:
            if isinstance(layer, TokenLinear):
                value = Value(_token_linear(layer, value))
            else:
                value = Value(lower(layer, value).computed())
        return Value(_back_to_map(value.computed(), x.shape))


def _traced(layer: Any, value: Any) -> Value:
    if isinstance(value, list):
        return Value(layer([each.computed() for each in value]))
    return Value(layer(value.computed()))


def is_traced(layer: Any) -> bool:
    """Whether `lower` goes through the layer's Keras call."""
    return _RULES.of(layer) is None and not has_flow(layer)


# Linear layers --------------------------------------------------------------------


def linear(value: Value, kernel: np.ndarray, bias: np.ndarray | float = 0.0) -> Any:
    """`value @ kernel + bias` over the channels, what waits taken into the weights."""
    bias = bias + np.broadcast_to(value.offset, len(kernel)) @ kernel
    kernel = np.broadcast_to(value.scale, len(kernel))[:, None] * kernel
    if len(value.shape) == 2:
        result = tf.linalg.matmul(value.tensor, _constant(kernel))
    else:
        result = tf.nn.conv2d(
            _as_map(value.tensor), _constant(kernel[None, None]), 1, "VALID"
        )
    result = _plus_bias(result, bias)
    if len(value.shape) == 3:
        result = tf.reshape(result, (*value.shape[:-1], kernel.shape[1]))
    return result


def _as_map(tensor: Any) -> Any:
    return tf.expand_dims(tensor, 1) if len(tensor.shape) == 3 else tensor


def _plus_bias(tensor: Any, bias: np.ndarray | float) -> Any:
    if not np.any(bias != 0.0):
        return tensor
    return tf.nn.bias_add(tensor, _constant(np.broadcast_to(bias, tensor.shape[-1])))


@_RULES.register(keras.layers.Dense)
def _(layer: Any, value: Value) -> Value:
    if len(value.shape) not in (2, 3, 4):
        return _traced(layer, value)
    return _activated(layer.activation, linear(value, *_kernel_and_bias(layer)))


@_RULES.register(keras.layers.Conv2D)
def _(layer: Any, value: Value) -> Value:
    if layer.data_format != "channels_last" or layer.groups > 1:
        return _traced(layer, value)
    value = value.with_offset() if layer.padding == "same" else value
    kernel, bias = _kernel_and_bias(layer)
    bias = bias + (np.broadcast_to(value.offset, kernel.shape[2]) @ kernel).sum((0, 1))
    kernel = np.broadcast_to(value.scale, kernel.shape[2])[:, None] * kernel
    result = tf.nn.conv2d(
        value.tensor,
        _constant(kernel),
        layer.strides,
        "SAME" if layer.padding == "same" else "VALID",
        dilations=layer.dilation_rate,
    )
    return _activated(layer.activation, _plus_bias(result, bias))


@_RULES.register(DepthwiseConvolution)
def _(layer: Any, value: Value) -> Value:
    maps = _depthwise_maps(layer, value)
    if len(value.shape) == 3:
        maps = [tf.squeeze(each, 1) for each in maps]
    if len(maps) == 1:
        return Value(maps[0])
    # Keras orders the outputs channel by channel, the maps are multiple by multiple.
    order = _interleaved(value.shape[-1], len(maps))
    return Value(tf.gather(tf.concat(maps, -1), np.argsort(order), axis=-1))


def _interleaved(channels: int, multiplier: int) -> np.ndarray:
    """For each channel of the concatenated maps its place in Keras' order."""
    return np.arange(channels * multiplier).reshape(channels, multiplier).T.ravel()


def _depthwise_maps(layer: DepthwiseConvolution, value: Value) -> list[Any]:
    """The result, one map for each multiple of the channels.

    XNNPACK's fast kernels give one output channel for each input channel. A sequence is
    a map of height 1.
    """
    value = value.with_offset()
    kernel, bias = _kernel_and_bias(layer)
    kernel = kernel if kernel.ndim == 4 else kernel[None]
    scale = np.broadcast_to(value.scale, value.shape[-1])
    maps = []
    for index in range(layer.depth_multiplier):
        single = scale[:, None] * kernel[..., index : index + 1]
        shift = bias[index :: layer.depth_multiplier]
        x = _as_map(value.tensor)
        if layer.dilation_rate > 1:
            maps.append(_dilated(x, single, layer.dilation_rate, shift))
        else:
            maps.append(_depthwise(x, single, layer.strides, shift))
    return maps


def _depthwise(x: Any, kernel: np.ndarray, stride: int, bias: Any) -> Any:
    """Depthwise convolution padded by half the kernel, as a sum over bands of rows."""
    height, width = x.shape[1:3]
    rows_of_kernel, columns_of_kernel = kernel.shape[:2]
    above, left = rows_of_kernel // 2, columns_of_kernel // 2
    if rows_of_kernel * columns_of_kernel <= _FAST_TAPS:
        if stride == 1:  # "SAME" is then half the kernel on every side.
            same = tf.nn.depthwise_conv2d(x, _constant(kernel), (1, 1, 1, 1), "SAME")
            return _plus_bias(same, bias)
        bands = [(0, rows_of_kernel)]
    else:
        rows = max(_FAST_TAPS // columns_of_kernel, 1)
        bands = [
            (row, min(row + rows, rows_of_kernel))
            for row in range(0, rows_of_kernel, rows)
        ]
    last_row, last_column = (_outputs(n, stride) - 1 for n in (height, width))
    right = max(stride * last_column + columns_of_kernel - left - width, 0)
    parts = []
    for first, end in bands:
        # Rows of the input that the band sees, counted from the map's first row.
        begin, stop = first - above, stride * last_row + end - above
        if stop <= 0 or begin >= height:
            continue  # The band sees padding only.
        seen = slice(max(begin, 0), min(stop, height))
        rows = x if seen == slice(0, height) else x[:, seen]
        top, bottom = max(-begin, 0), max(stop - height, 0)
        rows = tf.pad(rows, ((0, 0), (top, bottom), (left, right), (0, 0)))
        parts.append(
            tf.nn.depthwise_conv2d(
                rows, _constant(kernel[first:end]), (1, stride, stride, 1), "VALID"
            )
        )
    parts[0] = _plus_bias(parts[0], bias)
    return functools.reduce(tf.add, parts)


def _dilated(x: Any, kernel: np.ndarray, rate: int, bias: Any) -> Any:
    """Dilated depthwise convolution of stride 1: "SAME" pads both sides alike."""
    result = tf.nn.depthwise_conv2d(
        x, _constant(kernel), (1, 1, 1, 1), "SAME", dilations=(rate, rate)
    )
    return _plus_bias(result, bias)


def _outputs(size: int, stride: int) -> int:
    return -(-size // stride)


@_RULES.register(Downsampling)
def _(layer: Any, value: Value) -> Value:
    if layer.pre_norm is not None:
        value = lower(layer.pre_norm, value)
    if layer.padding:
        value = value.with_offset()
        sides = (layer.padding, layer.padding)
        padded = tf.pad(value.tensor, ((0, 0), sides, sides, (0, 0)))
        value = Value(padded, value.scale)
    value = lower(layer.convolution, value)
    return value if layer.post_norm is None else lower(layer.post_norm, value)


@_RULES.register(PatchMerging)
def _(layer: Any, value: Value) -> Value:
    if not isinstance(layer.depthwise, DepthwiseConvolution) or not isinstance(
        layer.projection, keras.layers.Dense
    ):
        return layer.flow(_Lowering(layer), value)
    # The linear layer's rows take the order of the maps.
    maps = _depthwise_maps(layer.depthwise, value)
    kernel, bias = _kernel_and_bias(layer.projection)
    order = _interleaved(value.shape[-1], len(maps))
    joined = Value(tf.concat(maps, -1) if len(maps) > 1 else maps[0])
    return _activated(layer.projection.activation, linear(joined, kernel[order], bias))


# Norms, scales, activations -------------------------------------------------------


@_RULES.register(keras.layers.LayerNormalization)
def _(layer: Any, value: Value) -> Value:
    if layer.axis not in (-1, [-1], [len(value.shape) - 1]) or getattr(
        layer, "rms_scaling", False
    ):
        return _traced(layer, value)
    return _normalized(layer, value, (-1,))


@_RULES.register(keras.layers.GroupNormalization, ImageNormalization)
def _(layer: Any, value: Value) -> Value:
    if layer.groups != 1 or layer.axis not in (-1, len(value.shape) - 1):
        return _traced(layer, value)
    return _normalized(layer, value, tuple(range(1, len(value.shape))))


def _normalized(layer: Any, value: Value, axes: tuple[int, ...]) -> Value:
    x = value.computed()
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    # A product: the converter makes squared_difference(x, mean) of a square, which is
    # slower, as it reads the mean for each number once more.
    variance = tf.reduce_mean(centred * centred, axes, keepdims=True)
    normalized = Value(centred * tf.math.rsqrt(variance + layer.epsilon))
    if layer.scale:
        normalized = normalized.times(_array(layer.gamma))
    if layer.center:
        normalized = normalized.plus(_array(layer.beta))
    return normalized


@_RULES.register(keras.layers.BatchNormalization)
def _(layer: Any, value: Value) -> Value:
    if layer.axis not in (-1, len(value.shape) - 1):
        return _traced(layer, value)
    with tf.init_scope():  # Out of the graph that is being traced.
        scale, offset = scale_and_offset(layer)
    return value.times(scale).plus(offset)


@_RULES.register(Affine)
def _(layer: Any, value: Value) -> Value:
    scaled = value.times(_array(layer.scale))
    return scaled.plus(_array(layer.offset)) if layer.use_bias else scaled


@_RULES.register(ResScale, LayerScale)
def _(layer: Any, value: Value) -> Value:
    return value.times(_array(layer.scale))


@_RULES.register(PositionEmbedding)
def _(layer: Any, value: Value) -> Value:
    return Value(value.computed() + _constant(_array(layer.embeddings)))


@_RULES.register(keras.layers.Rescaling)
def _(layer: Any, value: Value) -> Value:
    # Done at once: in the weights of the next layer, factors of 1 / 255 would fall
    # below what float16 holds with full precision.
    scale, offset = (np.asarray(part, float) for part in (layer.scale, layer.offset))
    return Value(value.times(scale).plus(offset).computed())


@_RULES.register(StarReLU)
def _(layer: Any, value: Value) -> Value:
    scale, bias = _array(layer.scale)[0], _array(layer.bias)[0]
    return Value(_squared_relu(value), scale, bias)


@_RULES.register(SquaredReLU)
def _(layer: Any, value: Value) -> Value:
    return Value(_squared_relu(value))


def _squared_relu(value: Value) -> Any:
    positive = tf.nn.relu(value.computed())
    return positive * positive


@_RULES.register(GELU)
def _(layer: Any, value: Value) -> Value:
    return Value(tf.nn.gelu(value.computed(), approximate=layer.approximate))


@_RULES.register(keras.layers.Activation)
def _(layer: Any, value: Value) -> Value:
    return _activated(layer.activation, value.computed())


@_RULES.register(
    IdentityMixer,
    StageOutput,
    StochasticDepth,
    keras.layers.Dropout,
    keras.layers.Identity,
)
def _(layer: Any, value: Value) -> Value:
    return value


def _activated(activation: Callable | None, tensor: Any) -> Value:
    if activation in (None, keras.activations.linear):
        return Value(tensor)
    plain = {
        keras.activations.relu: tf.nn.relu,
        keras.activations.softmax: tf.nn.softmax,
        keras.activations.sigmoid: tf.nn.sigmoid,
    }
    return Value(plain.get(activation, activation)(tensor))


# Sums and pooling -----------------------------------------------------------------


def _sum(first: Value, second: Value) -> Value:
    tensor = Value(first.tensor, first.scale).computed()
    tensor = tensor + Value(second.tensor, second.scale).computed()
    return Value(Value(tensor, 1.0, first.offset + second.offset).computed())


@_RULES.register(keras.layers.GlobalAveragePooling2D)
def _(layer: Any, value: Value) -> Value:
    if layer.data_format != "channels_last":
        return _traced(layer, value)
    # An average passes a factor and an offset per channel.
    mean = tf.reduce_mean(value.tensor, (1, 2), keepdims=layer.keepdims)
    return Value(mean, value.scale, value.offset)


@_RULES.register(PoolingMixer)
def _(layer: Any, value: Value) -> Value:
    # The average and what is subtracted have the same offset.
    pooled = tf.nn.avg_pool2d(_as_map(value.tensor), layer.pool_size, 1, "SAME")
    return Value(tf.reshape(pooled, value.shape) - value.tensor, value.scale)


@_RULES.register(SqueezeExcitation)
def _(layer: Any, value: Value) -> Value:
    pooled = tf.reduce_mean(value.tensor, (1, 2), keepdims=True)
    squeezed = lower(layer.squeeze, Value(pooled, value.scale, value.offset))
    return Value(value.computed() * lower(layer.excite, squeezed).computed())


# Token mixers ---------------------------------------------------------------------


@_RULES.register(SelfAttentionMixer)
def _(layer: Any, value: Value) -> Value:
    kernel, bias = _kernel_and_bias(layer.qkv)
    width = layer.heads * layer.head_dim
    factor = layer.head_dim**-0.5
    parts = []
    for index in range(3):
        part = slice(index * width, (index + 1) * width)
        scale = factor if index == 0 else 1.0
        parts.append(linear(value, scale * kernel[:, part], scale * bias[part]))
    query, key, values = (_split_heads(x, layer.heads) for x in parts)
    weights = tf.nn.softmax(tf.linalg.matmul(query, key, transpose_b=True))
    shape = (*value.shape[:-1], width)
    mixed = _join_heads(tf.linalg.matmul(weights, values), shape)
    return lower(layer.output_projection, Value(mixed))


@_RULES.register(ScaledDotProduct)
def _(layer: Any, value: list) -> Value:
    heads = value[0].shape[-1] // layer.head_dim
    query = value[0].times(layer.head_dim**-0.5)
    query, key = (_split_heads(x.computed(), heads) for x in (query, value[1]))
    return Value(tf.linalg.matmul(query, key, transpose_b=True))


@_RULES.register(WeightedSum)
def _(layer: Any, value: list) -> Value:
    weights, values = (x.computed() for x in value)
    mixed = tf.linalg.matmul(weights, _split_heads(values, weights.shape[1]))
    return Value(_join_heads(mixed, values.shape))


def _split_heads(x: Any, heads: int) -> Any:
    """Maps or sequences to `(1, heads, tokens, head_dim)`."""
    tokens, channels = math.prod(x.shape[1:-1]), x.shape[-1]
    split = tf.reshape(x, (1, tokens, heads, channels // heads))
    return tf.transpose(split, (0, 2, 1, 3))


def _join_heads(x: Any, shape: Any) -> Any:
    return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), shape)


@_RULES.register(RandomMixer)
def _(layer: Any, value: Value) -> Value:
    value = value.with_offset()
    mixed = linear(_over_tokens(value.tensor), _array(layer.random_matrix).T)
    # A factor per channel passes what mixes tokens.
    return Value(_back_to_map(mixed, value.shape), value.scale)


@_RULES.register(SpatialGatingUnit)
def _(layer: Any, value: Value) -> Value:
    x = value.computed()
    half = value.shape[-1] // 2
    return _gated(layer, Value(x[..., :half]), Value(x[..., half:]))


@_RULES.register(GatedMLP)
def _(layer: Any, value: Value) -> Value:
    if type(layer.activation) not in _ELEMENTWISE:
        return layer.flow(_Lowering(layer), value)
    # The two halves of the channels from two convolutions, so that nothing is cut.
    kernel, bias = _kernel_and_bias(layer.expand)
    half = kernel.shape[1] // 2
    kept, gate = (
        lower(layer.activation, Value(linear(value, kernel[:, part], bias[part])))
        for part in (slice(half), slice(half, None))
    )
    return lower(layer.project, _gated(layer.gate, kept, gate))


def _gated(layer: SpatialGatingUnit, kept: Value, gate: Value) -> Value:
    normalized = _over_tokens(lower(layer.norm, gate).computed())
    mixed = _token_linear(layer.projection, normalized)
    return Value(kept.computed() * _back_to_map(mixed, gate.shape))


def _token_linear(layer: TokenLinear, value: Value) -> Any:
    """The layer on `(1, 1, channels, tokens)`, where it is a 1x1 convolution."""
    bias = _array(layer.bias) if layer.use_bias else 0.0
    return linear(value, _array(layer.kernel), bias)


def _over_tokens(x: Any) -> Value:
    """Maps or sequences to `(1, 1, channels, tokens)`."""
    _, *sizes, channels = x.shape
    flat = tf.reshape(x, (1, 1, math.prod(sizes), channels))
    return Value(tf.transpose(flat, (0, 1, 3, 2)))


def _back_to_map(x: Any, shape: tuple[int, ...]) -> Any:
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2)), shape)


# Weights --------------------------------------------------------------------------


def _array(variable: Any) -> np.ndarray:
    with tf.init_scope():  # Out of the graph that is being traced.
        return to_numpy(variable).astype("float64")


def _kernel_and_bias(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; a bias of zeros where there is none."""
    kernel = _array(layer.kernel)
    if layer.use_bias:
        return kernel, _array(layer.bias)
    if isinstance(layer, DepthwiseConvolution):
        return kernel, np.zeros(kernel.shape[-2] * kernel.shape[-1])
    return kernel, np.zeros(kernel.shape[-1])


def _constant(array: np.ndarray | float) -> Any:
    return tf.constant(np.asarray(array), tf.float32)
