"""Our models once more, of stock Keras layers only: what a plain version would be.

The layers of this package hold faster forms of their formulas. A user who writes the
same model with what Keras offers gets the graph made here: `DepthwiseConv2D`, `Dense`,
`LayerNormalization`, StarReLU as its separate operations and so on, all in one flat
graph, which also shows every matrix product of the model (`matrix_products.py`).
"""

import functools
from typing import Any

import keras
from keras import ops

from keras_metaformer.arrays import to_numpy
from keras_metaformer.blocks import (
    ChannelMLP,
    Downsampling,
    MetaFormerBlock,
    PatchMerging,
    ResidualBranch,
)
from keras_metaformer.layers import (
    GELU,
    Affine,
    BatchNormalized,
    BatchNormalizedSkip,
    CrossPatchLinear,
    DepthwiseConvolution,
    GatedMLP,
    IdentityMixer,
    LayerScale,
    MetaMixer,
    PoolingMixer,
    RandomMixer,
    ReparameterizableDepthwise,
    ResScale,
    ScaledDotProduct,
    SelfAttentionMixer,
    SeparableConvolutionMixer,
    SpatialGatingUnit,
    SquaredReLU,
    SqueezeExcitation,
    StarReLU,
    StochasticDepth,
    TokenLinear,
    TokenMLP,
    WeightedSum,
)
from keras_metaformer.models.pyramid_model import StageOutput


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


@functools.singledispatch
def stock(layer: Any, x: Any) -> Any:
    """The output of a layer's stock form for a symbolic input.

    Keras' own layers are made anew from their configs; so are classes derived from
    them, as the class of Keras that they derive from.
    """
    for base in type(layer).__mro__:
        if base.__module__.startswith("keras.src.layers.") and base is not keras.Layer:
            config = base.get_config(layer)
            del config["name"]  # Names of inner layers are not unique in a flat graph.
            return _apply(base.from_config(config), x, layer.weights)
    raise TypeError(
        "There is no stock form of this layer. "
        f"Received: layer={layer.name!r} of type {type(layer).__name__}"
    )


def _apply(layer: keras.layers.Layer, x: Any, weights: Any) -> Any:
    """Calls a fresh layer, and gives it the values of these weights."""
    outputs = layer(x)
    layer.set_weights([to_numpy(weight) for weight in weights])
    return outputs


class Scale(keras.layers.Layer):
    """`x * scale + bias` with learned tensors; no stock layer has only these."""

    def __init__(self, scale: Any, bias: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.scale = self._weight("scale", scale)
        self.bias = None if bias is None else self._weight("bias", bias)
        self.built = True

    def _weight(self, name: str, original: Any) -> Any:
        return self.add_weight(
            name=name,
            shape=tuple(original.shape),
            initializer=lambda shape, dtype: ops.cast(to_numpy(original), dtype),
            trainable=original.trainable,
        )

    def call(self, inputs):
        outputs = inputs * self.scale
        return outputs if self.bias is None else outputs + self.bias

    def compute_output_shape(self, input_shape):
        return input_shape


def _through(layers: Any, x: Any) -> Any:
    """The stock forms of several layers, one after the other; None is left out."""
    for layer in layers:
        if layer is not None:
            x = stock(layer, x)
    return x


@stock.register(IdentityMixer)
@stock.register(StageOutput)
def _(layer: Any, x: Any) -> Any:
    return x


@stock.register
def _(layer: MetaFormerBlock, x: Any) -> Any:
    return _through((layer.token_mixing, layer.between, layer.channel_mixing), x)


@stock.register
def _(layer: ResidualBranch, x: Any) -> Any:
    branch = _through(
        (layer.norm, layer.transform, layer.layer_scale, layer.stochastic_depth), x
    )
    return _through((layer.residual_scale,), x) + branch


@stock.register
def _(layer: ChannelMLP, x: Any) -> Any:
    parts = (layer.expand, layer.activation, layer.drop, layer.project, layer.drop)
    return _through(parts, x)


@stock.register
def _(layer: Downsampling, x: Any) -> Any:
    x = _through((layer.pre_norm,), x)
    if layer.padding:
        x = keras.layers.ZeroPadding2D(layer.padding, dtype=layer.dtype_policy)(x)
    return _through((layer.convolution, layer.post_norm), x)


@stock.register
def _(layer: PatchMerging, x: Any) -> Any:
    return _through((layer.depthwise, layer.projection), x)


@stock.register
def _(layer: DepthwiseConvolution, x: Any) -> Any:
    if layer.strides > 1:  # Keras' "same" would pad the two sides differently.
        half = layer.kernel_size // 2
        x = keras.layers.ZeroPadding2D(half, dtype=layer.dtype_policy)(x)
    convolution = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        layer.strides,
        padding="same" if layer.strides == 1 else "valid",
        depth_multiplier=layer.depth_multiplier,
        use_bias=layer.use_bias,
        dtype=layer.dtype_policy,
    )
    return _apply(convolution, x, layer.weights)


@stock.register
def _(layer: StarReLU, x: Any) -> Any:
    squared = ops.square(ops.relu(x))
    return Scale(layer.scale, layer.bias, dtype=layer.dtype_policy)(squared)


@stock.register
def _(layer: SquaredReLU, x: Any) -> Any:
    return ops.square(ops.relu(x))


@stock.register
def _(layer: GELU, x: Any) -> Any:
    return ops.gelu(x, approximate=layer.approximate)


@stock.register(ResScale)
@stock.register(LayerScale)
def _(layer: Any, x: Any) -> Any:
    return Scale(layer.scale, dtype=layer.dtype_policy)(x)


@stock.register
def _(layer: Affine, x: Any) -> Any:
    return Scale(layer.scale, layer.offset, dtype=layer.dtype_policy)(x)


@stock.register
def _(layer: StochasticDepth, x: Any) -> Any:
    noise_shape = (None,) + (1,) * (len(x.shape) - 1)  # one draw for each image
    drop = keras.layers.Dropout(layer.rate, noise_shape, dtype=layer.dtype_policy)
    return drop(x)


@stock.register
def _(layer: SeparableConvolutionMixer, x: Any) -> Any:
    parts = (layer.expand, layer.activation, layer.depthwise, layer.project)
    return _through(parts, x)


@stock.register
def _(layer: SelfAttentionMixer, x: Any) -> Any:
    _, height, width, channels = x.shape
    heads = channels // layer.head_dim
    qkv = ops.reshape(
        stock(layer.qkv, x), (-1, height * width, 3 * heads, layer.head_dim)
    )
    parts: Any = ops.split(qkv, 3, axis=2)
    mixed = ops.dot_product_attention(*parts)
    mixed = ops.reshape(mixed, (-1, height, width, channels))
    return stock(layer.output_projection, mixed)


@stock.register
def _(layer: PoolingMixer, x: Any) -> Any:
    pooling = keras.layers.AveragePooling2D(
        layer.pool_size, 1, "same", dtype=layer.dtype_policy
    )
    return pooling(x) - x


def _flat(x: Any) -> Any:
    return ops.reshape(x, (-1, x.shape[1] * x.shape[2], x.shape[3]))


@stock.register
def _(layer: RandomMixer, x: Any) -> Any:
    mixing = keras.layers.EinsumDense(
        "btc,tu->buc",
        (x.shape[1] * x.shape[2], x.shape[3]),
        trainable=False,
        dtype=layer.dtype_policy,
    )
    flat = _flat(x)
    outputs = mixing(flat)
    mixing.set_weights([to_numpy(layer.random_matrix).T])
    return ops.reshape(outputs, (-1, *x.shape[1:]))


@stock.register
def _(layer: TokenLinear, x: Any) -> Any:
    # As Mixers are written in Keras: EinsumDense with such a bias has no TFLite form.
    mixing = keras.layers.Dense(layer.units, dtype=layer.dtype_policy)
    outputs = keras.layers.Permute((2, 1))(mixing(keras.layers.Permute((2, 1))(x)))
    mixing.set_weights([to_numpy(layer.kernel), to_numpy(layer.bias)])
    return outputs


@stock.register
def _(layer: TokenMLP, x: Any) -> Any:
    mixed = _through((layer.expand, layer.activation, layer.project), _flat(x))
    return ops.reshape(mixed, (-1, *x.shape[1:]))


@stock.register
def _(layer: CrossPatchLinear, x: Any) -> Any:
    return ops.reshape(stock(layer.linear, _flat(x)), (-1, *x.shape[1:]))


@stock.register
def _(layer: SpatialGatingUnit, x: Any) -> Any:
    halves: Any = ops.split(x, 2, axis=-1)
    kept, gate = halves
    gate = stock(layer.projection, _flat(stock(layer.norm, gate)))
    return kept * ops.reshape(gate, (-1, *kept.shape[1:]))


@stock.register
def _(layer: GatedMLP, x: Any) -> Any:
    return _through((layer.expand, layer.activation, layer.gate, layer.project), x)


@stock.register
def _(layer: BatchNormalized, x: Any) -> Any:
    return _through((layer.linear, layer.norm), x)


@stock.register
def _(layer: BatchNormalizedSkip, x: Any) -> Any:
    return x + _through((layer.norm, layer.linear), x)


@stock.register
def _(layer: ReparameterizableDepthwise, x: Any) -> Any:
    return stock(layer.large, x) + stock(layer.small, x)


@stock.register
def _(layer: SqueezeExcitation, x: Any) -> Any:
    pooled = ops.mean(x, axis=(1, 2), keepdims=True)
    return x * _through((layer.squeeze, layer.excite), pooled)


@stock.register
def _(layer: MetaMixer, x: Any) -> Any:
    query = stock(layer.query, x)
    if layer.key is not None:
        query = [query, stock(layer.key, x)]
    mixed = _through((layer.interaction, layer.activation), query)
    if layer.value is not None:
        mixed = [mixed, stock(layer.value, x)]
    return _through((layer.aggregation, layer.projection), mixed)


def _heads(x: Any, heads: int) -> Any:
    _, height, width, channels = x.shape
    split = ops.reshape(x, (-1, height * width, heads, channels // heads))
    return ops.transpose(split, (0, 2, 1, 3))


@stock.register
def _(layer: ScaledDotProduct, x: Any) -> Any:
    query, keys = (_heads(part, part.shape[-1] // layer.head_dim) for part in x)
    products = ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2)))
    return products * layer.head_dim**-0.5


@stock.register
def _(layer: WeightedSum, x: Any) -> Any:
    coefficients, values = x
    mixed = ops.matmul(coefficients, _heads(values, coefficients.shape[1]))
    mixed = ops.transpose(mixed, (0, 2, 1, 3))
    return ops.reshape(mixed, (-1, *values.shape[1:]))
