"""From what a user writes - a name, a layer, a class, a factory - to a fresh layer."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_metaformer.layers.affine import Affine
from keras_metaformer.layers.composite import deserialize_part
from keras_metaformer.layers.gelu import GELU
from keras_metaformer.layers.identity_mixer import IdentityMixer
from keras_metaformer.layers.image_normalization import ImageNormalization
from keras_metaformer.layers.squared_relu import SquaredReLU
from keras_metaformer.layers.star_relu import StarReLU
from keras_metaformer_lite.names import question

LayerFactory = Callable[..., keras.layers.Layer]
#: What stands for a layer in an argument.
LayerLike = str | keras.layers.Layer | LayerFactory


def make_layer(
    kind: str,
    spec: Any,
    named: Mapping[str, LayerFactory],
    dtype: Any = None,
    **options: Any,
) -> keras.layers.Layer:
    """A fresh layer from its specification.

    Args:
        kind: what the layer is for, in error messages, such as `"mixer"`.
        spec: a key of `named` (called with `options`), a layer (copied through its
            config), a serialised layer (as `get_config` writes it), a layer class or
            any other callable that gives a layer when called without arguments.
        named: factories by name; they get `options` and `dtype`.
        dtype: dtype or policy for named layers, None for Keras' current policy.
        **options: further arguments of the named factories.

    Returns:
        A layer that no one else holds.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if `spec` is none of these, or a callable gives something else.
    """
    if isinstance(spec, str):
        if spec not in named:
            raise ValueError(
                f"Unknown {kind}.{question(spec, named)} Expected one of "
                f"{sorted(named)}, a Keras layer, a layer class or a factory. "
                f"Received: {kind}={spec!r}"
            )
        return named[spec](dtype=dtype, **options)
    if isinstance(spec, keras.layers.Layer):
        config = spec.get_config()
        config.pop("name", None)
        return type(spec).from_config(config)
    if isinstance(spec, Mapping):
        return deserialize_part(spec)
    if not callable(spec):
        raise TypeError(
            f"A {kind} must be a name, a Keras layer, a layer class or a factory. "
            f"Received: {kind}={spec!r} of type {type(spec).__name__}"
        )
    layer = spec()
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            f"A {kind} factory must return a Keras layer. Received: {layer!r} of type "
            f"{type(layer).__name__}"
        )
    return layer


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
    return Affine(dtype=dtype)


def _no_norm(use_bias, epsilon, dtype):
    return IdentityMixer(dtype=dtype)


NORMS: dict[str, LayerFactory] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "affine": _affine,
    "identity": _no_norm,
}


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
