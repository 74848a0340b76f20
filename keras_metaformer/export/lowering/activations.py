"""Activations, and layers that do nothing at inference."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_metaformer.export.lowering.rules import RULES
from keras_metaformer.export.lowering.values import Value, array
from keras_metaformer.layers import (
    GELU,
    IdentityMixer,
    SquaredReLU,
    StarReLU,
    StochasticDepth,
)
from keras_metaformer.models.pyramid_model import StageOutput


@RULES.register(StarReLU)
def _(layer: Any, value: Value) -> Value:
    scale, bias = array(layer.scale)[0], array(layer.bias)[0]
    return Value(_squared_relu(value), scale, bias)


@RULES.register(SquaredReLU)
def _(layer: Any, value: Value) -> Value:
    return Value(_squared_relu(value))


def _squared_relu(value: Value) -> Any:
    positive = tf.nn.relu(value.computed())
    return positive * positive


@RULES.register(GELU)
def _(layer: Any, value: Value) -> Value:
    return Value(tf.nn.gelu(value.computed(), approximate=layer.approximate))


@RULES.register(keras.layers.Activation)
def _(layer: Any, value: Value) -> Value:
    return activated(layer.activation, value.computed())


#: Keras' augmentation, which changes nothing outside training.
_AUGMENTATION = (
    keras.layers.AugMix,
    keras.layers.CutMix,
    keras.layers.MixUp,
    keras.layers.RandAugment,
    keras.layers.RandomBrightness,
    keras.layers.RandomColorDegeneration,
    keras.layers.RandomColorJitter,
    keras.layers.RandomContrast,
    keras.layers.RandomErasing,
    keras.layers.RandomFlip,
    keras.layers.RandomGaussianBlur,
    keras.layers.RandomGrayscale,
    keras.layers.RandomHue,
    keras.layers.RandomInvert,
    keras.layers.RandomPerspective,
    keras.layers.RandomPosterization,
    keras.layers.RandomRotation,
    keras.layers.RandomSaturation,
    keras.layers.RandomSharpness,
    keras.layers.RandomShear,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)


@RULES.register(
    IdentityMixer,
    StageOutput,
    StochasticDepth,
    keras.layers.Dropout,
    keras.layers.Identity,
    *_AUGMENTATION,
)
def _(layer: Any, value: Value) -> Value:
    return value


def activated(activation: Callable | None, tensor: Any) -> Value:
    """An activation of Keras, None for none, on a tensor."""
    if activation in (None, keras.activations.linear):
        return Value(tensor)
    plain = {
        keras.activations.relu: tf.nn.relu,
        keras.activations.softmax: tf.nn.softmax,
        keras.activations.sigmoid: tf.nn.sigmoid,
    }
    return Value(plain.get(activation, activation)(tensor))
