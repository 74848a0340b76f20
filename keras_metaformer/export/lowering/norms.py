"""Norms, scales and position embeddings."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_metaformer.export.lowering.rules import RULES, traced
from keras_metaformer.export.lowering.values import Value, array, constant
from keras_metaformer.inference.folding import scale_and_offset
from keras_metaformer.layers import (
    Affine,
    ImageNormalization,
    LayerScale,
    PositionEmbedding,
    ResScale,
)


@RULES.register(keras.layers.LayerNormalization)
def _(layer: Any, value: Value) -> Value:
    if layer.axis not in (-1, [-1], [len(value.shape) - 1]) or getattr(
        layer, "rms_scaling", False
    ):
        return traced(layer, value)
    return _normalized(layer, value, (-1,))


@RULES.register(keras.layers.GroupNormalization, ImageNormalization)
def _(layer: Any, value: Value) -> Value:
    if layer.groups != 1 or layer.axis not in (-1, len(value.shape) - 1):
        return traced(layer, value)
    return _normalized(layer, value, tuple(range(1, len(value.shape))))


def _normalized(layer: Any, value: Value, axes: tuple[int, ...]) -> Value:
    x = value.computed()
    centred = x - tf.reduce_mean(x, axes, keepdims=True)
    # A product: the converter makes squared_difference(x, mean) of a square, which is
    # slower, as it reads the mean for each number once more.
    variance = tf.reduce_mean(centred * centred, axes, keepdims=True)
    normalized = Value(centred * tf.math.rsqrt(variance + layer.epsilon))
    if layer.scale:
        normalized = normalized.times(array(layer.gamma))
    if layer.center:
        normalized = normalized.plus(array(layer.beta))
    return normalized


@RULES.register(keras.layers.BatchNormalization)
def _(layer: Any, value: Value) -> Value:
    if layer.axis not in (-1, len(value.shape) - 1):
        return traced(layer, value)
    with tf.init_scope():  # Out of the graph that is being traced.
        scale, offset = scale_and_offset(layer)
    return value.times(scale).plus(offset)


@RULES.register(Affine)
def _(layer: Any, value: Value) -> Value:
    scaled = value.times(array(layer.scale))
    return scaled.plus(array(layer.offset)) if layer.use_bias else scaled


@RULES.register(ResScale, LayerScale)
def _(layer: Any, value: Value) -> Value:
    return value.times(array(layer.scale))


@RULES.register(PositionEmbedding)
def _(layer: Any, value: Value) -> Value:
    return Value(value.computed() + constant(array(layer.embeddings)))


@RULES.register(keras.layers.Rescaling)
def _(layer: Any, value: Value) -> Value:
    # Done at once: in the weights of the next layer, factors of 1 / 255 would fall
    # below what float16 holds with full precision.
    scale, offset = (np.asarray(part, float) for part in (layer.scale, layer.offset))
    return Value(value.times(scale).plus(offset).computed())
