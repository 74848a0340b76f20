"""Our models once more, of stock Keras layers only: what a plain version would be.

The layers of this package hold faster forms of their formulas. A user who writes the
same model with what Keras offers gets the graph made here: `DepthwiseConv2D`, `Dense`,
`LayerNormalization`, StarReLU as its separate operations and so on, all in one flat
graph, which also shows every matrix product of the model (`matrix_products.py`).
"""

import math
from typing import Any

import keras
from keras import ops

from keras_metaformer.arrays import to_numpy
from keras_metaformer.blocks import (
    Downsampling,
)
from keras_metaformer.layers import (
    GELU,
    Affine,
    DepthwiseConvolution,
    IdentityMixer,
    LayerScale,
    PoolingMixer,
    PositionEmbedding,
    RandomMixer,
    ResScale,
    ScaledDotProduct,
    SelfAttentionMixer,
    SpatialGatingUnit,
    SquaredReLU,
    SqueezeExcitation,
    StarReLU,
    StochasticDepth,
    TokenLinear,
    WeightedSum,
)
from keras_metaformer.layers.composite import Run, has_flow
from keras_metaformer.layers.rules import LayerRules
from keras_metaformer.models.pyramid_model import StageOutput

#: `(layer, x) -> output` for what has a stock form of its own; a `Composite` has that
#: of its parts.
_RULES = LayerRules()


def stock_model(model: keras.Model) -> keras.Model:
    """A flat functional model of stock Keras layers that computes the same.

    Args:
        model: a functional model of this package's layers and Keras' own, built. Its
            graph is a chain, as that of every constructor.

    Returns:
        A new model with copies of the weights, in the same dtype policies.

    Raises:
        TypeError: if there is no stock form for a layer of the model.
    """
    # A fresh input: the old one leads to the old graph.
    image: Any = model.input
    inputs = keras.layers.Input(shape=image.shape[1:], dtype=image.dtype)
    outputs = inputs
    for layer in model.layers:
        if not isinstance(layer, keras.layers.InputLayer):
            outputs = stock(layer, outputs)
    return keras.Model(inputs, outputs, name=f"stock_{model.name}")


def stock(layer: Any, x: Any) -> Any:
    """The output of a layer's stock form for a symbolic input, or a list of them.

    Keras' own layers are made anew from their configs; so are classes derived from
    them, as the class of Keras that they derive from.
    """
    rule = _RULES.of(layer)
    if rule is not None:
        return rule(layer, x)
    if has_flow(layer):
        return layer.flow(_Stock(layer), x)
    for base in type(layer).__mro__:
        if base.__module__.startswith("keras.src.layers.") and base is not keras.Layer:
            config = base.get_config(layer)
            del config["name"]  # Names of inner layers are not unique in a flat graph.
            return _apply(base.from_config(config), x, layer.weights)
    raise TypeError(
        "There is no stock form of this layer. "
        f"Received: layer={layer.name!r} of type {type(layer).__name__}"
    )


class _Stock(Run):
    """The flow of symbolic tensors through stock layers."""

    def step(self, layer, x):
        return stock(layer, x)

    def add(self, x, branch, scale=None):
        return (x if scale is None else stock(scale, x)) + branch

    def over_tokens(self, x, *layers):
        return ops.reshape(self(_flat(x), *layers), (-1, *x.shape[1:]))


def _apply(layer: keras.layers.Layer, x: Any, weights: Any) -> Any:
    """Calls a fresh layer, and gives it the values of these weights."""
    outputs = layer(x)
    layer.set_weights([to_numpy(weight) for weight in weights])
    return outputs


class Scale(keras.layers.Layer):
    """`x * scale + bias` with learned tensors; no stock layer has only these."""

    def __init__(self, scale: Any = None, bias: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = self._weight("scale", scale)
        self.bias = self._weight("bias", bias)
        self.built = True

    def _weight(self, name: str, original: Any) -> Any:
        if original is None:
            return None
        return self.add_weight(
            name=name,
            shape=tuple(original.shape),
            initializer=lambda shape, dtype: ops.cast(to_numpy(original), dtype),
            trainable=original.trainable,
        )

    def call(self, inputs):
        outputs = inputs if self.scale is None else inputs * self.scale
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape):
        return input_shape


@_RULES.register(IdentityMixer, StageOutput)
def _(layer: Any, x: Any) -> Any:
    return x


@_RULES.register(Downsampling)
def _(layer: Any, x: Any) -> Any:
    through = _Stock(layer)
    x = through(x, layer.pre_norm)
    if layer.padding:
        x = keras.layers.ZeroPadding2D(layer.padding, dtype=layer.dtype_policy)(x)
    return through(x, layer.convolution, layer.post_norm)


@_RULES.register(DepthwiseConvolution)
def _(layer: Any, x: Any) -> Any:
    is_sequence = len(x.shape) == 3
    if layer.strides > 1:  # Keras' "same" would pad the two sides differently.
        half = layer.kernel_size // 2
        pad = keras.layers.ZeroPadding1D if is_sequence else keras.layers.ZeroPadding2D
        x = pad(half, dtype=layer.dtype_policy)(x)
    kind = keras.layers.DepthwiseConv1D if is_sequence else keras.layers.DepthwiseConv2D
    convolution = kind(
        layer.kernel_size,
        layer.strides,
        padding="same" if layer.strides == 1 else "valid",
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=layer.use_bias,
        dtype=layer.dtype_policy,
    )
    return _apply(convolution, x, layer.weights)


@_RULES.register(StarReLU)
def _(layer: Any, x: Any) -> Any:
    squared = ops.square(ops.relu(x))
    return Scale(layer.scale, layer.bias, dtype=layer.dtype_policy)(squared)


@_RULES.register(SquaredReLU)
def _(layer: Any, x: Any) -> Any:
    return ops.square(ops.relu(x))


@_RULES.register(GELU)
def _(layer: Any, x: Any) -> Any:
    return ops.gelu(x, approximate=layer.approximate)


@_RULES.register(ResScale, LayerScale)
def _(layer: Any, x: Any) -> Any:
    return Scale(layer.scale, dtype=layer.dtype_policy)(x)


@_RULES.register(Affine)
def _(layer: Any, x: Any) -> Any:
    return Scale(layer.scale, layer.offset, dtype=layer.dtype_policy)(x)


@_RULES.register(PositionEmbedding)
def _(layer: Any, x: Any) -> Any:
    return Scale(bias=layer.embeddings, dtype=layer.dtype_policy)(x)


@_RULES.register(StochasticDepth)
def _(layer: Any, x: Any) -> Any:
    noise_shape = (None,) + (1,) * (len(x.shape) - 1)  # one draw for each image
    drop = keras.layers.Dropout(layer.rate, noise_shape, dtype=layer.dtype_policy)
    return drop(x)


@_RULES.register(SelfAttentionMixer)
def _(layer: Any, x: Any) -> Any:
    _, *sizes, _ = x.shape
    qkv = ops.reshape(
        stock(layer.qkv, x), (-1, math.prod(sizes), 3 * layer.heads, layer.head_dim)
    )
    parts: Any = ops.split(qkv, 3, axis=2)
    mixed = ops.dot_product_attention(*parts)
    mixed = ops.reshape(mixed, (-1, *sizes, layer.heads * layer.head_dim))
    return stock(layer.output_projection, mixed)


@_RULES.register(PoolingMixer)
def _(layer: Any, x: Any) -> Any:
    is_sequence = len(x.shape) == 3
    kind = (
        keras.layers.AveragePooling1D if is_sequence else keras.layers.AveragePooling2D
    )
    pooling = kind(layer.pool_size, 1, "same", dtype=layer.dtype_policy)
    return pooling(x) - x


def _flat(x: Any) -> Any:
    return ops.reshape(x, (-1, math.prod(x.shape[1:-1]), x.shape[-1]))


@_RULES.register(RandomMixer)
def _(layer: Any, x: Any) -> Any:
    mixing = keras.layers.EinsumDense(
        "btc,tu->buc",
        (math.prod(x.shape[1:-1]), x.shape[-1]),
        trainable=False,
        dtype=layer.dtype_policy,
    )
    flat = _flat(x)
    outputs = mixing(flat)
    mixing.set_weights([to_numpy(layer.random_matrix).T])
    return ops.reshape(outputs, (-1, *x.shape[1:]))


@_RULES.register(TokenLinear)
def _(layer: Any, x: Any) -> Any:
    # As Mixers are written in Keras: EinsumDense with such a bias has no TFLite form.
    mixing = keras.layers.Dense(
        layer.units, use_bias=layer.use_bias, dtype=layer.dtype_policy
    )
    outputs = keras.layers.Permute((2, 1))(mixing(keras.layers.Permute((2, 1))(x)))
    mixing.set_weights([to_numpy(weight) for weight in layer.weights])
    return outputs


@_RULES.register(SpatialGatingUnit)
def _(layer: Any, x: Any) -> Any:
    halves: Any = ops.split(x, 2, axis=-1)
    kept, gate = halves
    gate = stock(layer.projection, _flat(stock(layer.norm, gate)))
    return kept * ops.reshape(gate, (-1, *kept.shape[1:]))


@_RULES.register(SqueezeExcitation)
def _(layer: Any, x: Any) -> Any:
    pooled = ops.mean(x, axis=(1, 2), keepdims=True)
    return x * stock(layer.excite, stock(layer.squeeze, pooled))


def _heads(x: Any, heads: int) -> Any:
    _, *sizes, channels = x.shape
    split = ops.reshape(x, (-1, math.prod(sizes), heads, channels // heads))
    return ops.transpose(split, (0, 2, 1, 3))


@_RULES.register(ScaledDotProduct)
def _(layer: Any, x: Any) -> Any:
    query, keys = (_heads(part, part.shape[-1] // layer.head_dim) for part in x)
    products = ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2)))
    return products * layer.head_dim**-0.5


@_RULES.register(WeightedSum)
def _(layer: Any, x: Any) -> Any:
    coefficients, values = x
    mixed = ops.matmul(coefficients, _heads(values, coefficients.shape[1]))
    mixed = ops.transpose(mixed, (0, 2, 1, 3))
    return ops.reshape(mixed, (-1, *values.shape[1:]))
