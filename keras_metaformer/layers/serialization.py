"""Layers inside the configs of other layers."""

from collections.abc import Iterable

import keras


def deserialize_layers(config: dict, names: Iterable[str]) -> dict:
    """`config` with the serialised layers under `names` made into layers."""
    layers = {
        name: keras.saving.deserialize_keras_object(config[name]) for name in names
    }
    return {**config, **layers}
