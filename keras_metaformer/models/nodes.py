"""The calls that a graph is made of: layers may be in more graphs than one."""

from typing import Any

import keras


def nodes_of(model: keras.Model) -> list[Any]:
    """The calls of layers and operations in a functional or sequential model.

    A layer that models share has one for each of them; Keras' `layer.output` is that of
    the first, whichever model it is in.

    Returns:
        Keras' nodes, each with `operation`, `input_tensors`, `outputs` and `arguments`.
    """
    graph: Any = getattr(model, "_functional", None) or model
    return [node for nodes in graph._nodes_by_depth.values() for node in nodes]


def output_in(model: keras.Model, layer: keras.layers.Layer) -> Any:
    """What a layer gives in a model, symbolic: one tensor or a list of them.

    Raises:
        ValueError: if the model calls the layer more than once, or not at all.
    """
    outputs = [node.outputs for node in nodes_of(model) if node.operation is layer]
    if len(outputs) != 1:
        raise ValueError(
            f"Expected a layer that the model calls once. Received: {layer.name!r}, "
            f"which {model.name!r} calls {len(outputs)} times"
        )
    return outputs[0][0] if len(outputs[0]) == 1 else list(outputs[0])
