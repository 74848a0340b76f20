"""The calls that a graph is made of: layers may be in more graphs than one."""

from typing import Any

import keras


def nodes_of(model: keras.Model) -> list[Any]:
    """The calls of layers and operations in a functional or sequential model.

    A layer that models share has one for each of them; Keras' `layer.output` is that of
    the first, whichever model it is in.

    Returns:
        Keras' nodes, each with `operation`, `input_tensors`, `outputs` and `arguments`,
        in an order in which they can be run.
    """
    by_depth = graph_of(model)._nodes_by_depth
    return [
        node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
    ]


def graph_of(model: keras.Model) -> Any:
    """The functional model that a sequential one is, once built; any other itself."""
    return getattr(model, "_functional", None) or model


def is_graph(layer: Any) -> bool:
    """Whether it is a model whose calls are known: functional, or sequential."""
    return isinstance(layer, keras.Model) and hasattr(
        graph_of(layer), "_nodes_by_depth"
    )


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
