"""The base of the package's layers, whose config follows from their constructor."""

import functools
import inspect
from typing import Any

import keras

#: Values that stand for themselves in a config.
_PLAIN = (str, int, float, bool, type(None))


class ConfiguredLayer(keras.layers.Layer):
    """A layer whose config holds the arguments of its constructor.

    Each argument is kept as the attribute of its name, as it came or as the layer or
    initializer that was made of it. A class that keeps one elsewhere defines
    `get_config`, as for any Keras layer.
    """

    #: Arguments of the class above that a class gives by itself.
    fixed_arguments: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        return {**kept_arguments(self, ConfiguredLayer), **super().get_config()}


def unnamed_copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A fresh layer like another one, but for its name.

    Args:
        layer: any layer that has a config.
    """
    kind = type(layer)
    if _is_made_of_plain_arguments(layer):
        # Without a config: Keras imports TensorFlow, where it is installed, to write
        # one. That takes longer than to load a model.
        names = arguments_of(kind, ConfiguredLayer)
        policy, trainable = layer.dtype_policy, layer.trainable
        plain = {name: getattr(layer, name) for name in names}
        return kind(**plain, dtype=policy, trainable=trainable)
    config = layer.get_config()
    config.pop("name", None)
    return kind.from_config(config)


def _is_made_of_plain_arguments(layer: keras.layers.Layer) -> bool:
    """Whether these, its dtype policy and whether it is trained, are all of a layer."""
    kind: Any = type(layer)
    if not isinstance(layer, ConfiguredLayer) or layer.activity_regularizer is not None:
        return False
    names = arguments_of(kind, ConfiguredLayer)
    base: Any = keras.layers.Layer
    # Of Keras' layers in between, and of a class' own words, nothing is known.
    return (
        kind.__mro__[kind.__mro__.index(ConfiguredLayer) + 1] is base
        and kind.get_config is ConfiguredLayer.get_config
        and kind.from_config.__func__ is base.from_config.__func__
        and not names.keys() & {"name", "dtype", "trainable"}
        and all(isinstance(getattr(layer, name, layer), _PLAIN) for name in names)
    )


def kept_arguments(thing: Any, base: type) -> dict[str, Any]:
    """The constructor's arguments of an object, as Keras serialises them.

    Args:
        thing: an object of a class that derives from `base`.
        base: the class from which on constructors are not asked. A class below it that
            defines `get_config` is not asked either: it says its arguments itself.

    Raises:
        TypeError: if an argument is no attribute of its name, and no `get_config` can
            say it.
    """
    config, kind = {}, type(thing)
    for name, owner in arguments_of(kind, base).items():
        if "get_config" in vars(owner):
            continue
        if hasattr(thing, name):
            value = getattr(thing, name)
            config[name] = keras.saving.serialize_keras_object(value)
        elif kind.get_config is owner.get_config:
            raise TypeError(
                f"`{kind.__name__}` must keep its argument `{name}` as `self.{name}`, "
                f"or define `get_config`. Received: {thing!r}"
            )
    return config


def arguments_of(kind: Any, base: Any) -> dict[str, Any]:
    """What a constructor takes, its bases' arguments included.

    Args:
        kind: a class that derives from `base`.
        base: the class from which on constructors are not asked.

    Returns:
        The class that takes it, by the name of the argument.
    """
    return _arguments_of(kind, base)


@functools.cache
def _arguments_of(kind: Any, base: Any) -> dict[str, Any]:
    owners: dict[str, Any] = {}
    fixed: set[str] = set()
    for each in kind.__mro__[: kind.__mro__.index(base)]:
        if "__init__" in vars(each):
            _, *parameters = inspect.signature(each.__init__).parameters.values()
            for parameter in parameters:
                variadic = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                if parameter.kind not in variadic and parameter.name not in fixed:
                    owners.setdefault(parameter.name, each)
        fixed.update(vars(each).get("fixed_arguments", ()))
    return owners
