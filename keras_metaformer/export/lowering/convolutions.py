"""Linear layers, convolutions and pooling."""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_metaformer.blocks import Downsampling, PatchMerging
from keras_metaformer.export.lowering.activations import activated
from keras_metaformer.export.lowering.rules import RULES, Lowering, lower, traced
from keras_metaformer.export.lowering.values import (
    Value,
    as_map,
    constant,
    kernel_and_bias,
    linear,
    plus_bias,
)
from keras_metaformer.layers import DepthwiseConvolution, PoolingMixer

#: Taps of the largest depthwise kernel that XNNPACK has fast code for.
_FAST_TAPS = 25


@RULES.register(keras.layers.Dense)
def _(layer: Any, value: Value) -> Value:
    if len(value.shape) not in (2, 3, 4):
        return traced(layer, value)
    return activated(layer.activation, linear(value, *kernel_and_bias(layer)))


@RULES.register(keras.layers.Conv2D)
def _(layer: Any, value: Value) -> Value:
    if layer.data_format != "channels_last" or layer.groups > 1:
        return traced(layer, value)
    value = value.with_offset() if layer.padding == "same" else value
    kernel, bias = kernel_and_bias(layer)
    bias = bias + (np.broadcast_to(value.offset, kernel.shape[2]) @ kernel).sum((0, 1))
    kernel = np.broadcast_to(value.scale, kernel.shape[2])[:, None] * kernel
    result = tf.nn.conv2d(
        value.tensor,
        constant(kernel),
        layer.strides,
        "SAME" if layer.padding == "same" else "VALID",
        dilations=layer.dilation_rate,
    )
    return activated(layer.activation, plus_bias(result, bias))


@RULES.register(DepthwiseConvolution)
def _(layer: Any, value: Value) -> Value:
    maps = depthwise_maps(layer, value)
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


def depthwise_maps(layer: DepthwiseConvolution, value: Value) -> list[Any]:
    """The result, one map for each multiple of the channels.

    XNNPACK's fast kernels give one output channel for each input channel. A sequence is
    a map of height 1.
    """
    value = value.with_offset()
    kernel, bias = kernel_and_bias(layer)
    kernel = kernel if kernel.ndim == 4 else kernel[None]
    scale = np.broadcast_to(value.scale, value.shape[-1])
    maps = []
    for index in range(layer.depth_multiplier):
        single = scale[:, None] * kernel[..., index : index + 1]
        shift = bias[index :: layer.depth_multiplier]
        x = as_map(value.tensor)
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
            same = tf.nn.depthwise_conv2d(x, constant(kernel), (1, 1, 1, 1), "SAME")
            return plus_bias(same, bias)
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
                rows, constant(kernel[first:end]), (1, stride, stride, 1), "VALID"
            )
        )
    parts[0] = plus_bias(parts[0], bias)
    return functools.reduce(tf.add, parts)


def _dilated(x: Any, kernel: np.ndarray, rate: int, bias: Any) -> Any:
    """Dilated depthwise convolution of stride 1: "SAME" pads both sides alike."""
    result = tf.nn.depthwise_conv2d(
        x, constant(kernel), (1, 1, 1, 1), "SAME", dilations=(rate, rate)
    )
    return plus_bias(result, bias)


def _outputs(size: int, stride: int) -> int:
    return -(-size // stride)


@RULES.register(Downsampling)
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


@RULES.register(PatchMerging)
def _(layer: Any, value: Value) -> Value:
    if not isinstance(layer.depthwise, DepthwiseConvolution) or not isinstance(
        layer.projection, keras.layers.Dense
    ):
        return layer.flow(Lowering(layer), value)
    # The linear layer's rows take the order of the maps.
    maps = depthwise_maps(layer.depthwise, value)
    kernel, bias = kernel_and_bias(layer.projection)
    order = _interleaved(value.shape[-1], len(maps))
    joined = Value(tf.concat(maps, -1) if len(maps) > 1 else maps[0])
    return activated(layer.projection.activation, linear(joined, kernel[order], bias))


@RULES.register(keras.layers.GlobalAveragePooling2D)
def _(layer: Any, value: Value) -> Value:
    if layer.data_format != "channels_last":
        return traced(layer, value)
    # An average passes a factor and an offset per channel.
    mean = tf.reduce_mean(value.tensor, (1, 2), keepdims=layer.keepdims)
    return Value(mean, value.scale, value.offset)


@RULES.register(PoolingMixer)
def _(layer: Any, value: Value) -> Value:
    # The average and what is subtracted have the same offset.
    pooled = tf.nn.avg_pool2d(as_map(value.tensor), layer.pool_size, 1, "SAME")
    return Value(tf.reshape(pooled, value.shape) - value.tensor, value.scale)
