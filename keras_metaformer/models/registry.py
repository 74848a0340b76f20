"""Every constructor that can be asked for by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from keras_metaformer.names import find_model_name


@dataclasses.dataclass(frozen=True)
class Variant:
    """One named model: what its constructor is called and what it costs.

    Attributes:
        name: the constructor's name, such as `"ConvFormerS18"`.
        family: the module in `keras_metaformer.applications`, such as `"convformer"`.
        config: the frozen config that its builder takes.
        parameters: weights of the 1000-class model, frozen ones included.
        macs: multiply-accumulate operations for one image of `resolution`; norms,
            activations and pooling are not counted.
        resolution: height and width of the default input, in pixels.
        constructor: the function that users call.
    """

    name: str
    family: str
    config: Any
    parameters: int
    macs: int
    resolution: int
    constructor: Callable[..., keras.Model]


_VARIANTS: dict[str, Variant] = {}


def register(variant: Variant) -> None:
    """Add a variant; a name can be taken once.

    Raises:
        ValueError: if the name is taken.
    """
    if variant.name in _VARIANTS:
        raise ValueError(f"Model {variant.name!r} is registered twice.")
    _VARIANTS[variant.name] = variant


def names() -> list[str]:
    """All constructors' names, in the order of their definition."""
    return list(_VARIANTS)


def get(name: str) -> Variant:
    """The variant of that name, upper and lower case and underscores ignored.

    Raises:
        ValueError: if there is none; the message offers the nearest names.
    """
    return _VARIANTS[find_model_name(name, _VARIANTS)]
