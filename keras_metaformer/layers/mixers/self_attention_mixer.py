"""The self-attention token mixer of CAFormer."""

from typing import Any

import keras
from keras import ops

from keras_metaformer.layers import operations
from keras_metaformer.layers.composite import LayerWithParts
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.inner_call import call_inner
from keras_metaformer.layers.tokens import token_count
from keras_metaformer.layers.validation import (
    pair_of_bools,
    positive_integer,
    rate_below_one,
)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class SelfAttentionMixer(LayerWithParts):
    """Self-attention token mixer: `y = project(softmax(q k^T / sqrt(d)) v)`.

    Every position of a map is a token. Queries, keys and values come from one linear
    layer; there is no positional encoding.

    Example:

    >>> import numpy as np
    >>> SelfAttentionMixer()(np.ones((1, 7, 7, 64), "float32")).shape
    (1, 7, 7, 64)

    Args:
        head_dim: int. Width `d` of a head.
        use_bias: bool, or a pair of them. Whether the linear layer of queries, keys and
            values and the projection at the end have biases.
        num_heads: int, or None for as many heads as the channels hold, at least one.
            Heads times `head_dim` may be another number than that of the channels.
        attention_dropout: float in [0, 1). Rate of the dropout of softmax's weights.
        projection_dropout: float in [0, 1). Rate of the dropout at the end.
        seed: int, or None for a random one. Of the two dropouts.
        kernel_initializer: initializer of the kernels, None for a normal with standard
            deviation 0.02.
        bias_initializer: initializer of the biases.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.
        training: bool. Whether to drop.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if a size is not positive, a rate lies outside [0, 1), or `use_bias`
            is neither a bool nor a pair.

    Reference:
        - Attention Is All You Need, https://arxiv.org/abs/1706.03762
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    makes_own_output = True

    def __init__(
        self,
        head_dim=32,
        use_bias=False,
        num_heads=None,
        attention_dropout=0.0,
        projection_dropout=0.0,
        seed=None,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.head_dim = positive_integer("head_dim", head_dim)
        self.use_bias = use_bias
        self._qkv_bias, self._projection_bias = pair_of_bools("use_bias", use_bias)
        self.num_heads = (
            None if num_heads is None else positive_integer("num_heads", num_heads)
        )
        self.attention_dropout = rate_below_one("attention_dropout", attention_dropout)
        self.projection_dropout = rate_below_one(
            "projection_dropout", projection_dropout
        )
        self.seed = seed
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.attention_drop = self._drop(attention_dropout, seed)
        # Another seed, or the two would draw the same numbers.
        self.projection_drop = self._drop(
            projection_dropout, None if seed is None else seed + 1
        )

    def build(self, input_shape):
        channels = input_shape[-1]
        self.heads = self.num_heads or max(channels // self.head_dim, 1)
        width = self.heads * self.head_dim
        self.qkv = self._linear(3 * width, self._qkv_bias, "qkv")
        self.output_projection = self._linear(
            channels, self._projection_bias, "output_projection"
        )
        self.qkv.build(input_shape)
        self.output_projection.build((*input_shape[:-1], width))
        if self.attention_drop is not None:
            self.attention_drop.build((input_shape[0], self.heads, None, None))
        if self.projection_drop is not None:
            self.projection_drop.build(input_shape)

    def _linear(self, units, use_bias, name):
        return keras.layers.Dense(
            units,
            use_bias=use_bias,
            name=name,
            **linear_settings(self),
        )

    def _drop(self, rate, seed):
        return Dropout(rate, seed=seed, dtype=self.dtype_policy) if rate else None

    def call(self, inputs, training=False):
        if training and self.attention_drop is not None:
            return self.with_weights(inputs, training)[0]
        mixed = operations.attention(*self._queries_keys_values(inputs))
        return self._project(mixed, inputs, training)

    def with_weights(self, inputs, training=False):
        """The outputs beside the weights of attention, step by step.

        The fused forms that `call` takes compute no such weights; the outputs are the
        same to rounding.

        Args:
            inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
                channels)`, of the layer's compute dtype.
            training: bool. Whether to drop.

        Returns:
            `(outputs, weights)`: what `call` returns, and `(batch, heads, queries,
            keys)`, which sum to 1 over the keys (before the dropout).
        """
        query, key, value = self._queries_keys_values(inputs)
        scaled = query * self.head_dim**-0.5
        weights = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", scaled, key))
        dropped = weights
        if training and self.attention_drop is not None:
            dropped = call_inner(self, self.attention_drop, weights, training=True)
        mixed = ops.einsum("bhqk,bkhd->bqhd", dropped, value)
        return self._project(mixed, inputs, training), weights

    def _queries_keys_values(self, inputs) -> Any:
        """Each `(batch, tokens, heads, head_dim)`."""
        qkv = call_inner(self, self.qkv, inputs)
        tokens = token_count(ops.shape(inputs)[1:-1])
        qkv = ops.reshape(qkv, (-1, tokens, 3 * self.heads, self.head_dim))
        return ops.split(qkv, 3, axis=2)

    def _project(self, mixed, inputs, training):
        """The end: the heads side by side, through the last linear layer."""
        sizes = ops.shape(inputs)[1:-1]
        mixed = ops.reshape(mixed, (-1, *sizes, self.heads * self.head_dim))
        outputs = call_inner(self, self.output_projection, mixed)
        if self.projection_drop is not None:
            outputs = call_inner(self, self.projection_drop, outputs, training)
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape
