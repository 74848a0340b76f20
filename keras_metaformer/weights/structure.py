"""The weights of a model by the names of their places in it."""

import dataclasses
from typing import Any

import keras

from keras_metaformer.layers.composite import parts_of


@dataclasses.dataclass(frozen=True)
class WeightSlot:
    """One weight of a model.

    Attributes:
        path: the attributes that lead to it, such as
            `"stage_0_block_1/token_mixing/norm/gamma"`. Unlike `variable.path` it does
            not depend on automatic layer names.
        variable: the Keras variable.
        layer: the layer that owns it; its class decides on transposition.
    """

    path: str
    variable: Any
    layer: keras.layers.Layer


def weight_slots(model: keras.Model) -> dict[str, WeightSlot]:
    """Every weight of a model by its path, in the order of the graph.

    Random-number states are not weights and are left out.

    Raises:
        ValueError: if a weight cannot be reached through attributes.
    """
    slots: dict[str, WeightSlot] = {}
    for layer in model.layers:
        _collect(layer, layer.name, slots)
    reached = {id(slot.variable) for slot in slots.values()}
    lost = [weight.path for weight in model.weights if id(weight) not in reached]
    if lost:
        raise ValueError(
            "These weights sit where porting does not reach them, such as in a list "
            f"of layers. Received: {lost}"
        )
    return slots


def _collect(
    layer: keras.layers.Layer, path: str, slots: dict[str, WeightSlot]
) -> None:
    children = parts_of(layer)
    nested = {id(weight) for child in children.values() for weight in child.weights}
    for weight in layer.weights:
        if id(weight) not in nested:
            slot = WeightSlot(f"{path}/{weight.name}", weight, layer)
            slots[slot.path] = slot
    for name, child in children.items():
        _collect(child, f"{path}/{name}", slots)
