"""MetaMixer: the query-key-value frame with its sub-operations open."""

import keras
from keras import ops

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.configured_layer import ConfiguredLayer
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.tokens import token_count
from keras_metaformer.layers.validation import positive_integer

#: The arguments of `MetaMixer`, in the order of the flow.
PARTS = (
    "query",
    "key",
    "interaction",
    "activation",
    "value",
    "aggregation",
    "projection",
)
_REQUIRED_PARTS = ("query", "interaction", "activation", "aggregation")


@keras.saving.register_keras_serializable(package="keras_metaformer")
class MetaMixer(Composite):
    """MetaMixer: `y = projection(aggregation(activation(interaction(q, k)), v))`.

    `q = query(x)` compares itself with keys, an activation makes coefficients of the
    comparison, and the coefficients combine values. Keys and values either come from
    the input (`k = key(x)`, `v = value(x)`) or are the weights of `interaction` and
    `aggregation` themselves; then `key` and `value` are None. Known mixers by their
    parts:

    | part | self-attention | FFNified attention | ConvNeXt block, channel MLP |
    |---|---|---|---|
    | query | linear | linear, batch norm | depthwise convolution (MLP: identity) |
    | keys | linear of the input | depthwise kernel | kernel of the first linear layer |
    | interaction | scaled dot product | depthwise convolution | matrix product |
    | activation | softmax | GELU | GELU |
    | values | linear of the input | depthwise kernel | kernel of the second layer |
    | aggregation | weighted sum | depthwise convolution | matrix product |
    | projection | linear | none | none |

    Example:

    >>> import numpy as np
    >>> from keras_metaformer.layers import DepthwiseConvolution
    >>> mixer = MetaMixer(
    ...     query=keras.layers.Dense(8),
    ...     interaction=DepthwiseConvolution(7),
    ...     activation=keras.layers.Activation("gelu"),
    ...     aggregation=DepthwiseConvolution(7),
    ... )
    >>> mixer(np.ones((1, 14, 14, 8), "float32")).shape
    (1, 14, 14, 8)

    Args:
        query: layer from the input to the query.
        interaction: layer called with the query, or with `[query, keys]` where `key` is
            given.
        activation: layer from the interaction to the coefficients.
        aggregation: layer called with the coefficients, or with `[coefficients,
            values]` where `value` is given.
        key: layer from the input to the keys, or None.
        value: layer from the input to the values, or None.
        projection: layer after the aggregation, or None.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, as the parts take it.
        training: bool. Passed on to the parts that take it.

    Returns:
        What the last part makes.

    Raises:
        TypeError: if a part is no layer, or is missing.

    Reference:
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """

    def __init__(
        self,
        query,
        interaction,
        activation,
        aggregation,
        key=None,
        value=None,
        projection=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.query = query
        self.key = key
        self.interaction = interaction
        self.activation = activation
        self.value = value
        self.aggregation = aggregation
        self.projection = projection
        for name in PARTS:
            part = getattr(self, name)
            if part is not None and not isinstance(part, keras.layers.Layer):
                raise TypeError(
                    f"`{name}` must be a Keras layer. "
                    f"Received: {name}={part!r} of type {type(part).__name__}"
                )

    @classmethod
    def self_attention(cls, channels, head_dim=32, use_bias=False, **kwargs):
        """Self-attention by its parts; `SelfAttentionMixer` is the fast form of it.

        Args:
            channels: int. Channels of the input, a multiple of `head_dim`.
            head_dim: int. Width of a head.
            use_bias: bool. Whether the linear layers have biases.
            **kwargs: `name`, `dtype` and the like; the dtype is the parts' too.
        """
        dtype = kwargs.get("dtype")

        def linear(name):
            return keras.layers.Dense(
                channels,
                use_bias=use_bias,
                kernel_initializer=truncated_normal(),
                dtype=dtype,
                name=name,
            )

        return cls(
            query=linear("query"),
            key=linear("key"),
            interaction=ScaledDotProduct(head_dim, dtype=dtype),
            activation=keras.layers.Softmax(dtype=dtype),
            value=linear("value"),
            aggregation=WeightedSum(dtype=dtype),
            projection=linear("projection"),
            **kwargs,
        )

    def build(self, input_shape):
        for name in _REQUIRED_PARTS:
            if getattr(self, name) is None:
                raise TypeError(f"A MetaMixer needs `{name}`. Received: {name}=None")
        super().build(input_shape)

    def flow(self, run, x):
        query = run(x, self.query)
        if self.key is not None:
            query = [query, run(x, self.key)]
        mixed = run(query, self.interaction, self.activation)
        if self.value is not None:
            mixed = [mixed, run(x, self.value)]
        return run(mixed, self.aggregation, self.projection)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ScaledDotProduct(ConfiguredLayer):
    """Interaction of self-attention: `q k^T / sqrt(d)`, head by head.

    Args:
        head_dim: int. Width `d` of a head; the channels must be a multiple of it.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: `[query, keys]`, float tensors `(batch, height, width, channels)` or
            `(batch, tokens, channels)`.

    Returns:
        Tensor `(batch, heads, tokens of the query, tokens of the keys)`.
    """

    def __init__(self, head_dim=32, **kwargs):
        super().__init__(**kwargs)
        self.head_dim = positive_integer("head_dim", head_dim)

    def build(self, input_shape):
        channels = input_shape[0][-1]
        if channels % self.head_dim:
            raise ValueError(
                "`ScaledDotProduct` needs channels that are a multiple of `head_dim`. "
                f"Received: channels={channels}, head_dim={self.head_dim}"
            )

    def call(self, inputs):
        query, keys = (_split_heads(x, x.shape[-1] // self.head_dim) for x in inputs)
        products = ops.matmul(query, ops.swapaxes(keys, -1, -2))
        return products * self.head_dim**-0.5

    def compute_output_shape(self, input_shape):
        tokens = [
            None if None in shape[1:-1] else token_count(shape[1:-1])
            for shape in input_shape
        ]
        heads = input_shape[0][-1] // self.head_dim
        return (input_shape[0][0], heads, *tokens)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class WeightedSum(ConfiguredLayer):
    """Aggregation of self-attention: the coefficients times the values, head by head.

    Call arguments:
        inputs: `[coefficients, values]` of shape `(batch, heads, tokens, tokens)` and
            `(batch, height, width, channels)` or `(batch, tokens, channels)`.

    Returns:
        Tensor of the values' shape.
    """

    def build(self, input_shape):
        pass

    def call(self, inputs):
        coefficients, values = inputs
        sizes = ops.shape(values)[1:-1]
        heads = coefficients.shape[1]
        mixed = ops.matmul(coefficients, _split_heads(values, heads))
        mixed = ops.transpose(mixed, (0, 2, 1, 3))
        return ops.reshape(mixed, (-1, *sizes, values.shape[-1]))

    def compute_output_shape(self, input_shape):
        return input_shape[1]


def _split_heads(maps, heads):
    """Maps or sequences to `(batch, heads, tokens, head_dim)`."""
    channels = maps.shape[-1]
    tokens = token_count(ops.shape(maps)[1:-1])
    split = ops.reshape(maps, (-1, tokens, heads, channels // heads))
    return ops.transpose(split, (0, 2, 1, 3))
