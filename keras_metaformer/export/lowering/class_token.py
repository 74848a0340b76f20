"""The class token, before the image's tokens and after them."""

import math
from typing import Any

import tensorflow as tf

from keras_metaformer.export.lowering.rules import RULES
from keras_metaformer.export.lowering.values import Value, array, constant
from keras_metaformer.layers import ClassToken, FirstToken


@RULES.register(ClassToken)
def _(layer: Any, value: Value) -> Value:
    _, *sizes, channels = value.shape
    tokens = tf.reshape(value.computed(), (1, math.prod(sizes), channels))
    token = constant(array(layer.token)[None, None])
    return Value(tf.concat([token, tokens], 1))


@RULES.register(FirstToken)
def _(layer: Any, value: Value) -> Value:
    # A slice that keeps its axis: XNNPACK and GPU delegates leave one that drops it.
    # It passes a factor and an offset per channel.
    first = tf.slice(value.tensor, (0, 0, 0), (1, 1, value.shape[-1]))
    return Value(tf.squeeze(first, 1), value.scale, value.offset)
