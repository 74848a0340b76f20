"""How a layer or a model is lowered: by a rule, by its flow, or traced."""

import functools
import math
from typing import Any

import keras
import tensorflow as tf

from keras_metaformer.export.lowering.values import (
    Value,
    back_to_map,
    over_tokens,
    token_linear,
)
from keras_metaformer.layers import (
    GELU,
    IdentityMixer,
    SquaredReLU,
    StarReLU,
    TokenLinear,
)
from keras_metaformer.layers.composite import IDLE_AT_INFERENCE, Run, has_flow
from keras_metaformer.layers.rules import LayerRules

#: `(layer, value) -> Value` for what is lowered in a way of its own.
RULES = LayerRules()

#: Activations that take each value by itself, whatever the order of the axes.
ELEMENTWISE = (GELU, StarReLU, SquaredReLU, IdentityMixer, keras.layers.ReLU)


def lower_model(model: keras.Model, value: Value) -> Value:
    """The operations of a whole model, applied to `value`.

    A functional model is lowered layer by layer, any other traced as a whole.
    """
    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            value = lower(layer, value)
        return value
    if not hasattr(model, "_run_through_graph"):  # A subclassed model.
        return traced(model, value)
    # A private name of Keras, but its own way to run a graph with other operations;
    # it knows layers that are used twice and models inside models.
    (output,) = keras.tree.flatten(
        model._run_through_graph(
            [value], lambda layer: functools.partial(_called, layer)
        )
    )
    return output


def _called(operation: Any, *arguments: Any, **options: Any) -> Value:
    if isinstance(operation, keras.layers.Layer) and len(arguments) == 1:
        return lower(operation, arguments[0])

    def computed(argument: Any) -> Any:
        return argument.computed() if isinstance(argument, Value) else argument

    return Value(operation(*keras.tree.map_structure(computed, arguments), **options))


def lower(layer: Any, value: Any) -> Value:
    """The operations of one layer, applied to a `Value` or a list of them.

    Args:
        layer: a layer with a rule for its class, a `Composite`, which follows its flow,
            a model, or any other, which is traced through its Keras call.
        value: what goes into it.
    """
    rule = RULES.of(layer)
    if rule is not None:
        return rule(layer, value)
    if has_flow(layer):
        return layer.flow(Lowering(layer), value)
    if isinstance(layer, keras.Model):
        return lower_model(layer, value)
    return traced(layer, value)


class Lowering(Run):
    """The flow of `Value`s."""

    def step(self, layer, x):
        return lower(layer, x)

    def add(self, x, branch, scale=None):
        return _sum(x if scale is None else lower(scale, x), branch)

    def over_tokens(self, x, *layers):
        idle = (type(None), *IDLE_AT_INFERENCE)
        steps = [layer for layer in layers if type(layer) not in idle]
        if not all(type(each) in (TokenLinear, *ELEMENTWISE) for each in steps):
            batch, *sizes, channels = x.shape
            flat = tf.reshape(x.computed(), (batch, math.prod(sizes), channels))
            tokens = self(Value(flat), *steps).computed()
            return Value(tf.reshape(tokens, (batch, *sizes, tokens.shape[-1])))
        # The tokens as channels, where a linear layer over them is a 1x1 convolution.
        value = over_tokens(x.computed())
        for layer in steps:
            if isinstance(layer, TokenLinear):
                value = Value(token_linear(layer, value))
            else:
                value = Value(lower(layer, value).computed())
        return Value(back_to_map(value.computed(), x.shape))


def traced(layer: Any, value: Any) -> Value:
    """The operations of the layer's Keras call."""
    if isinstance(value, list):
        return Value(layer([each.computed() for each in value]))
    return Value(layer(value.computed()))


def is_traced(layer: Any) -> bool:
    """Whether `lower` goes through the layer's Keras call."""
    return RULES.of(layer) is None and not has_flow(layer)


def _sum(first: Value, second: Value) -> Value:
    tensor = Value(first.tensor, first.scale).computed()
    tensor = tensor + Value(second.tensor, second.scale).computed()
    return Value(Value(tensor, 1.0, first.offset + second.offset).computed())
