"""From what a user writes - a name, a layer, a class, a factory - to a fresh layer."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_metaformer.layers.composite import deserialize_part
from keras_metaformer.layers.configured_layer import unnamed_copy
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
        spec: a key of `named` (called with `options`), a layer (copied), a serialised
            layer (as `get_config` writes it), a layer class or any other callable that
            gives a layer when called without arguments.
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
        return unnamed_copy(spec)
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
