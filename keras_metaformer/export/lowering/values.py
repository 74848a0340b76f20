"""A tensor on its way through the lowering, and the linear layer on it."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers import DepthwiseConvolution, TokenLinear


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
            tensor = tensor * constant(self.scale)
        if np.any(self.offset != 0.0):
            tensor = tensor + constant(self.offset)
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
            return Value(self.tensor + constant(self.offset / self.scale), self.scale)
        return Value(self.computed())


def linear(value: Value, kernel: np.ndarray, bias: np.ndarray | float = 0.0) -> Any:
    """`value @ kernel + bias` over the channels, what waits taken into the weights."""
    bias = bias + np.broadcast_to(value.offset, len(kernel)) @ kernel
    kernel = np.broadcast_to(value.scale, len(kernel))[:, None] * kernel
    if len(value.shape) == 2:
        result = tf.linalg.matmul(value.tensor, constant(kernel))
    else:
        result = tf.nn.conv2d(
            as_map(value.tensor), constant(kernel[None, None]), 1, "VALID"
        )
    result = plus_bias(result, bias)
    if len(value.shape) == 3:
        result = tf.reshape(result, (*value.shape[:-1], kernel.shape[1]))
    return result


def as_map(tensor: Any) -> Any:
    """A sequence as a map of height 1."""
    return tf.expand_dims(tensor, 1) if len(tensor.shape) == 3 else tensor


def plus_bias(tensor: Any, bias: np.ndarray | float) -> Any:
    """The sum, or the tensor where there is nothing to add."""
    if not np.any(bias != 0.0):
        return tensor
    return tf.nn.bias_add(tensor, constant(np.broadcast_to(bias, tensor.shape[-1])))


def token_linear(layer: TokenLinear, value: Value) -> Any:
    """The layer on `(1, 1, channels, tokens)`, where it is a 1x1 convolution."""
    bias = array(layer.bias) if layer.use_bias else 0.0
    return linear(value, array(layer.kernel), bias)


def over_tokens(x: Any) -> Value:
    """Maps or sequences to `(1, 1, channels, tokens)`."""
    _, *sizes, channels = x.shape
    flat = tf.reshape(x, (1, 1, math.prod(sizes), channels))
    return Value(tf.transpose(flat, (0, 1, 3, 2)))


def back_to_map(x: Any, shape: tuple[int, ...]) -> Any:
    """The way back of `over_tokens`, to a map or sequence of that shape."""
    return tf.reshape(tf.transpose(x, (0, 1, 3, 2)), shape)


def array(variable: Any) -> np.ndarray:
    """A variable's values as float64."""
    with tf.init_scope():  # Out of the graph that is being traced.
        return to_numpy(variable).astype("float64")


def kernel_and_bias(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64; a bias of zeros where there is none."""
    kernel = array(layer.kernel)
    if layer.use_bias:
        return kernel, array(layer.bias)
    if isinstance(layer, DepthwiseConvolution):
        return kernel, np.zeros(kernel.shape[-2] * kernel.shape[-1])
    return kernel, np.zeros(kernel.shape[-1])


def constant(array: np.ndarray | float) -> Any:
    """A float32 constant of the graph."""
    return tf.constant(np.asarray(array), tf.float32)
