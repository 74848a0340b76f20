"""Token mixers that multiply by more than one matrix, and gates."""

import math
from typing import Any

import tensorflow as tf

from keras_metaformer.export.lowering.rules import (
    ELEMENTWISE,
    RULES,
    Lowering,
    lower,
)
from keras_metaformer.export.lowering.values import (
    Value,
    array,
    back_to_map,
    kernel_and_bias,
    linear,
    over_tokens,
    token_linear,
)
from keras_metaformer.layers import (
    GatedMLP,
    RandomMixer,
    ScaledDotProduct,
    SelfAttentionMixer,
    SpatialGatingUnit,
    SqueezeExcitation,
    WeightedSum,
)


@RULES.register(SqueezeExcitation)
def _(layer: Any, value: Value) -> Value:
    pooled = tf.reduce_mean(value.tensor, (1, 2), keepdims=True)
    squeezed = lower(layer.squeeze, Value(pooled, value.scale, value.offset))
    return Value(value.computed() * lower(layer.excite, squeezed).computed())


@RULES.register(SelfAttentionMixer)
def _(layer: Any, value: Value) -> Value:
    kernel, bias = kernel_and_bias(layer.qkv)
    width = layer.heads * layer.head_dim
    factor = layer.head_dim**-0.5
    parts = []
    for index in range(3):
        part = slice(index * width, (index + 1) * width)
        scale = factor if index == 0 else 1.0
        parts.append(linear(value, scale * kernel[:, part], scale * bias[part]))
    query, key, values = (_split_heads(x, layer.heads) for x in parts)
    weights = tf.nn.softmax(tf.linalg.matmul(query, key, transpose_b=True))
    shape = (*value.shape[:-1], width)
    mixed = _join_heads(tf.linalg.matmul(weights, values), shape)
    return lower(layer.output_projection, Value(mixed))


@RULES.register(ScaledDotProduct)
def _(layer: Any, value: list) -> Value:
    heads = value[0].shape[-1] // layer.head_dim
    query = value[0].times(layer.head_dim**-0.5)
    query, key = (_split_heads(x.computed(), heads) for x in (query, value[1]))
    return Value(tf.linalg.matmul(query, key, transpose_b=True))


@RULES.register(WeightedSum)
def _(layer: Any, value: list) -> Value:
    weights, values = (x.computed() for x in value)
    mixed = tf.linalg.matmul(weights, _split_heads(values, weights.shape[1]))
    return Value(_join_heads(mixed, values.shape))


def _split_heads(x: Any, heads: int) -> Any:
    """Maps or sequences to `(1, heads, tokens, head_dim)`."""
    tokens, channels = math.prod(x.shape[1:-1]), x.shape[-1]
    split = tf.reshape(x, (1, tokens, heads, channels // heads))
    return tf.transpose(split, (0, 2, 1, 3))


def _join_heads(x: Any, shape: Any) -> Any:
    return tf.reshape(tf.transpose(x, (0, 2, 1, 3)), shape)


@RULES.register(RandomMixer)
def _(layer: Any, value: Value) -> Value:
    value = value.with_offset()
    mixed = linear(over_tokens(value.tensor), array(layer.random_matrix).T)
    # A factor per channel passes what mixes tokens.
    return Value(back_to_map(mixed, value.shape), value.scale)


@RULES.register(SpatialGatingUnit)
def _(layer: Any, value: Value) -> Value:
    x = value.computed()
    half = value.shape[-1] // 2
    return _gated(layer, Value(x[..., :half]), Value(x[..., half:]))


@RULES.register(GatedMLP)
def _(layer: Any, value: Value) -> Value:
    if type(layer.activation) not in ELEMENTWISE:
        return layer.flow(Lowering(layer), value)
    # The two halves of the channels from two convolutions, so that nothing is cut.
    kernel, bias = kernel_and_bias(layer.expand)
    half = kernel.shape[1] // 2
    kept, gate = (
        lower(layer.activation, Value(linear(value, kernel[:, part], bias[part])))
        for part in (slice(half), slice(half, None))
    )
    return lower(layer.project, _gated(layer.gate, kept, gate))


def _gated(layer: SpatialGatingUnit, kept: Value, gate: Value) -> Value:
    normalized = over_tokens(lower(layer.norm, gate).computed())
    mixed = token_linear(layer.projection, normalized)
    return Value(kept.computed() * back_to_map(mixed, gate.shape))
