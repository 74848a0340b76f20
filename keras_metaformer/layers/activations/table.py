"""The activations by name."""

import inspect
from typing import Any

import keras

from keras_metaformer.layers.activations.gelu import GELU
from keras_metaformer.layers.activations.squared_relu import SquaredReLU
from keras_metaformer.layers.activations.star_relu import StarReLU
from keras_metaformer.layers.factories import LayerFactory, make_layer
from keras_metaformer.layers.mixers.identity_mixer import IdentityMixer
from keras_metaformer_lite.names import question

ACTIVATIONS: dict[str, LayerFactory] = {
    "star_relu": StarReLU,
    "squared_relu": SquaredReLU,
    "relu": keras.layers.ReLU,
    "gelu": GELU,
    "gelu_tanh": lambda **kwargs: GELU(approximate=True, **kwargs),
    "identity": IdentityMixer,
}


def make_activation(spec: Any, dtype: Any = None) -> keras.layers.Layer:
    """A fresh activation layer.

    Args:
        spec: one of `ACTIVATIONS`, the name of any other activation of Keras, a
            function of one tensor, or what `make_layer` takes.
        dtype: dtype or policy where no layer is given, None for Keras' current policy.

    Raises:
        ValueError: if the name is unknown.
    """
    function = spec
    if isinstance(spec, str) and spec not in ACTIVATIONS:
        function = getattr(keras.activations, spec, None)
        if function is None or spec in ("get", "serialize", "deserialize"):
            known = {*ACTIVATIONS, *vars(keras.activations)}
            raise ValueError(
                f"Unknown activation.{question(spec, known)} Expected one of "
                f"{sorted(ACTIVATIONS)}, the name of an activation of Keras, a "
                "function, a Keras layer, a layer class or a factory. "
                f"Received: activation={spec!r}"
            )
    if not isinstance(function, str) and _takes_a_tensor(function):
        return keras.layers.Activation(function, dtype=dtype)
    return make_layer("activation", spec, ACTIVATIONS, dtype)


def _takes_a_tensor(spec: Any) -> bool:
    """Whether this is a function of a tensor and not a factory without arguments."""
    if isinstance(spec, (keras.layers.Layer, type)) or not callable(spec):
        return False
    try:
        inspect.signature(spec).bind()
    except TypeError:
        return True
    except ValueError:  # No signature is known, as of functions written in C.
        return True
    return False
