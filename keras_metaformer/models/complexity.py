"""Multiply-accumulate operations of a model, from its shapes."""

import math
from collections.abc import Iterator
from typing import Any

import keras

from keras_metaformer.blocks import Downsampling
from keras_metaformer.layers import (
    DepthwiseConvolution,
    PositionEmbedding,
    RandomMixer,
    ScaledDotProduct,
    SelfAttentionMixer,
    SpatialGatingUnit,
    SqueezeExcitation,
    TokenLinear,
    WeightedSum,
)
from keras_metaformer.layers.composite import Shapes, has_flow
from keras_metaformer.layers.rules import LayerRules
from keras_metaformer.models.nodes import is_graph, nodes_of

#: `(layer, input_shape) -> int` for layers with matrices; a `Composite` needs none.
_RULES = LayerRules()


def count_macs(model: keras.Model) -> int:
    """Multiply-accumulate operations of a model for one image.

    Counted are linear layers, convolutions and the matrix products of attention and of
    random mixing. Norms, activations, pooling, scales and additions are not: they are
    no matrix products, and papers count them in different ways.

    Args:
        model: functional model with known input shapes. A layer of your own that
            multiplies matrices must have a method `count_macs(input_shape) -> int`.

    Returns:
        The number of multiply-accumulate operations.

    Raises:
        TypeError: if a layer has a matrix of weights and is not known here.
        ValueError: if a shape is not fully known.
    """
    return sum(layer_macs(layer, shape) for layer, shape in calls_of(model))


def calls_of(model: Any) -> Iterator[tuple[keras.layers.Layer, Any]]:
    """The layers that a model calls, each with the shape of its input.

    Models that are its layers are gone through in their places.

    Args:
        model: functional or sequential model.

    Yields:
        `(layer, input_shape)`, in an order in which they can be run; a list of shapes
        for several inputs.
    """
    for node in nodes_of(model):
        layer = node.operation
        if not isinstance(layer, keras.layers.Layer) or node.is_input:
            continue
        shapes = [tuple(tensor.shape) for tensor in node.input_tensors]
        if is_graph(layer):
            yield from calls_of(layer)
        else:
            yield layer, shapes[0] if len(shapes) == 1 else shapes


def layer_macs(layer: Any, input_shape: Any) -> int:
    """Multiply-accumulate operations of one layer for one image.

    Args:
        layer: a built layer.
        input_shape: of its input, with the batch; a list of shapes for several inputs.

    Raises:
        TypeError: if the layer, or one inside it, has a matrix of weights and is not
            known here.
    """
    if hasattr(layer, "count_macs"):
        return layer.count_macs(input_shape)
    rule = _RULES.of(layer)
    if rule is not None:
        return rule(layer, input_shape)
    if has_flow(layer):
        counting = _Counting(layer)
        layer.flow(counting, input_shape)
        return counting.macs
    if any(len(weight.shape) > 1 for weight in layer.weights):
        raise TypeError(
            f"{type(layer).__name__} has matrices of weights, but no method "
            f"`count_macs(input_shape)`. Received: layer={layer.name!r}"
        )
    return 0


class _Counting(Shapes):
    """The flow of shapes that counts what the layers on its way compute."""

    def __init__(self, outer: Any):
        super().__init__(outer)
        self.macs = 0

    def step(self, layer, x):
        self.macs += layer_macs(layer, x)
        return super().step(layer, x)


def _positions(shape: tuple) -> int:
    """Positions of a map or tokens of a sequence, or 1 for pooled features."""
    sizes = shape[1:-1]
    if None in sizes:
        raise ValueError(
            "Operations can be counted for known image sizes, or lengths of sequences, "
            f"only: build the model with `input_shape`. Received: shape={shape}"
        )
    return math.prod(sizes)


def _elements(shape: tuple) -> int:
    """Values of one image's map."""
    return _positions(shape) * shape[-1]


@_RULES.register(keras.layers.Dense)
def _(layer: Any, input_shape: tuple) -> int:
    return _positions(input_shape) * input_shape[-1] * layer.units


@_RULES.register(keras.layers.Conv1D, keras.layers.Conv2D)
def _(layer: Any, input_shape: tuple) -> int:
    outputs = _elements(layer.compute_output_shape(input_shape))
    return outputs * math.prod(layer.kernel_size) * input_shape[-1] // layer.groups


@_RULES.register(DepthwiseConvolution)
def _(layer: Any, input_shape: tuple) -> int:
    outputs = _elements(layer.compute_output_shape(input_shape))
    return outputs * layer.kernel_size ** (len(input_shape) - 2)


@_RULES.register(PositionEmbedding)
def _(layer: Any, input_shape: tuple) -> int:
    return 0  # Sums are not counted.


@_RULES.register(RandomMixer)
def _(layer: Any, input_shape: tuple) -> int:
    return _positions(input_shape) ** 2 * input_shape[-1]


@_RULES.register(SelfAttentionMixer)
def _(layer: Any, input_shape: tuple) -> int:
    tokens, width = _positions(input_shape), layer.heads * layer.head_dim
    linear = 4 * tokens * input_shape[-1] * width
    return linear + 2 * tokens**2 * width


@_RULES.register(Downsampling)
def _(layer: Any, input_shape: tuple) -> int:
    return layer_macs(layer.convolution, layer.padded_shape(input_shape))


@_RULES.register(TokenLinear)
def _(layer: Any, input_shape: tuple) -> int:
    return input_shape[1] * layer.units * input_shape[2]


@_RULES.register(SpatialGatingUnit)
def _(layer: Any, input_shape: tuple) -> int:
    return _positions(input_shape) ** 2 * input_shape[-1] // 2


@_RULES.register(SqueezeExcitation)
def _(layer: Any, input_shape: tuple) -> int:
    return 2 * input_shape[-1] * layer.squeeze.units


@_RULES.register(ScaledDotProduct)
def _(layer: Any, input_shape: Any) -> int:
    queries, keys = input_shape
    return _positions(queries) * _positions(keys) * queries[-1]


@_RULES.register(WeightedSum)
def _(layer: Any, input_shape: Any) -> int:
    coefficients, values = input_shape
    return coefficients[-2] * coefficients[-1] * values[-1]
