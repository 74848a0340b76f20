"""The norms by name."""

from typing import Any

import keras

from keras_metaformer.layers.factories import LayerFactory, make_layer
from keras_metaformer.layers.mixers.identity_mixer import IdentityMixer
from keras_metaformer.layers.norms.affine import Affine
from keras_metaformer.layers.norms.image_normalization import ImageNormalization


def _layer_norm(use_bias, epsilon, dtype):
    return keras.layers.LayerNormalization(
        epsilon=epsilon, center=use_bias, dtype=dtype
    )


def _group_norm(use_bias, epsilon, dtype):
    return ImageNormalization(epsilon=epsilon, center=use_bias, dtype=dtype)


def _batch_norm(use_bias, epsilon, dtype):
    # Momentum 0.9 is PyTorch's default of 0.1, seen from the other side.
    return keras.layers.BatchNormalization(
        epsilon=epsilon, center=use_bias, momentum=0.9, dtype=dtype
    )


def _affine(use_bias, epsilon, dtype):
    return Affine(use_bias, dtype=dtype)


def _no_norm(use_bias, epsilon, dtype):
    return IdentityMixer(dtype=dtype)


NORMS: dict[str, LayerFactory] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "affine": _affine,
    "identity": _no_norm,
}

#: The norms with an offset, and with a sum of it and the variance.
BIASED = ("layer_norm", "group_norm", "batch_norm", "affine")
WITH_EPSILON = ("layer_norm", "group_norm", "batch_norm")


def make_norm(
    spec: Any, use_bias: bool = True, epsilon: float = 1e-6, dtype: Any = None
) -> keras.layers.Layer:
    """A fresh norm layer; see `make_layer` for what `spec` may be.

    `"layer_norm"` normalises each position over its channels, `"group_norm"` each image
    over height, width and channels (one group) with a scale per channel, `"batch_norm"`
    each channel over the batch; `"affine"` scales and shifts without statistics, and
    `"identity"` does nothing.
    """
    return make_layer("norm", spec, NORMS, dtype, use_bias=use_bias, epsilon=epsilon)
