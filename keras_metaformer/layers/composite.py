"""The base of layers that are made of other layers."""

import functools
import inspect
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras

#: What may be changed on a part after it was made: attribute to the value of a new one.
_DEFAULTS = {"quantization_config": None, "lora_rank": None, "lora_alpha": None}


class Composite(keras.layers.Layer):
    """A layer that is made of other layers, its parts.

    A part is a layer that is an attribute of this one. It takes the name of its
    attribute, so that the paths of all weights are the same in every process and in
    every model of the same kind.

    The config holds the arguments of the constructor, and with `parts` what was changed
    since on the parts that the layer made by itself: their dtype policies, which
    `keras.Model.quantize` sets, and LoRA's ranks. Parts that are arguments carry
    their own.

    Args:
        parts: what to change on parts, by their names, as `get_config` writes it.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.
    """

    def __init__(self, *, parts: Mapping[str, Any] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self._changes: dict[str, Any] = {}
        if parts:
            self._change_parts(parts)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, keras.layers.Layer) and not name.startswith("_"):
            value.name = name
            if name in getattr(self, "_changes", {}):
                _change(value, self._changes[name])
        super().__setattr__(name, value)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Parts that are arguments are in the config of the class that takes them.
        changes = self._changes_of_parts(_arguments(type(self)))
        if changes:
            config["parts"] = changes
        return config

    def _change_parts(self, changes: Mapping[str, Any]) -> None:
        """Changes the parts that are there, and the others as soon as they are made."""
        self._changes = dict(changes)
        for name, change in changes.items():
            if isinstance(getattr(self, name, None), keras.layers.Layer):
                _change(getattr(self, name), change)

    def _changes_of_parts(self, without: Collection[str] = ()) -> dict[str, Any]:
        changes = {
            name: _changes_of(part, self.dtype_policy)
            for name, part in parts_of(self).items()
            if name not in without
        }
        return {name: change for name, change in changes.items() if change}


def parts_of(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The layers that are attributes of a layer, by the attributes' names."""
    # On the torch backend a layer is a torch module, which keeps its children apart.
    attributes = {**vars(layer), **vars(layer).get("_modules", {})}
    return {
        name: part
        for name, part in attributes.items()
        if not name.startswith("_") and isinstance(part, keras.layers.Layer)
    }


def deserialize_part(serialized: Any) -> Any:
    """A part from the config of its composite layer, not built yet; None stays None.

    The composite layer builds it: only there does it get the path of its weights.
    """
    if isinstance(serialized, Mapping):
        serialized = {
            key: value for key, value in serialized.items() if key != "build_config"
        }
    return keras.saving.deserialize_keras_object(serialized)


def deserialize_parts(config: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The config of a composite layer with the parts of these names made."""
    return {**config, **{name: deserialize_part(config[name]) for name in names}}


@functools.cache
def _arguments(kind: type) -> frozenset[str]:
    return frozenset(inspect.signature(kind.__init__).parameters)


def _changes_of(part: Any, policy: keras.DTypePolicy) -> dict[str, Any]:
    """How a part differs from what its composite layer makes, as plain data."""
    changes: dict[str, Any] = {}
    if part.dtype_policy != policy:
        changes["dtype"] = keras.saving.serialize_keras_object(part.dtype_policy)
    for name, default in _DEFAULTS.items():
        value = getattr(part, name, default)
        if value != default:
            changes[name] = keras.saving.serialize_keras_object(value)
    if isinstance(part, Composite):
        nested = part._changes_of_parts()
        if nested:
            changes["parts"] = nested
    return changes


def _change(part: Any, changes: Mapping[str, Any]) -> None:
    """The way back of `_changes_of`, for a part that is not built."""
    for name, value in changes.items():
        if name == "parts":
            part._change_parts(value)
        elif name == "dtype":
            part.dtype_policy = keras.saving.deserialize_keras_object(value)
        else:
            setattr(part, name, keras.saving.deserialize_keras_object(value))
