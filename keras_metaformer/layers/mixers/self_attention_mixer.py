"""The self-attention token mixer of CAFormer."""

from typing import Any

import keras
from keras import ops

from keras_metaformer.layers import operations
from keras_metaformer.layers.composite import LayerWithParts
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.inner_call import call_inner
from keras_metaformer.layers.tokens import token_count
from keras_metaformer.layers.validation import positive_integer


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
        head_dim: int. Width `d` of a head; the channels must be a multiple of it.
        use_bias: bool. Whether the two linear layers have biases.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: when built for channels that `head_dim` does not divide.

    Reference:
        - Attention Is All You Need, https://arxiv.org/abs/1706.03762
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    makes_own_output = True

    def __init__(self, head_dim=32, use_bias=False, **kwargs):
        super().__init__(**kwargs)
        self.head_dim = positive_integer("head_dim", head_dim)
        self.use_bias = use_bias

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.head_dim:
            raise ValueError(
                "`SelfAttentionMixer` needs channels that are a multiple of "
                "`head_dim`, which a model is told by a layer: "
                "`mixer=km.layers.SelfAttentionMixer(head_dim=...)`. "
                f"Received: channels={channels}, head_dim={self.head_dim}"
            )
        self.qkv = self._linear(3 * channels, "qkv")
        self.output_projection = self._linear(channels, "output_projection")
        self.qkv.build(input_shape)
        self.output_projection.build(input_shape)

    def _linear(self, units, name):
        return keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, inputs):
        sizes = ops.shape(inputs)[1:-1]
        channels = inputs.shape[-1]
        heads = channels // self.head_dim
        qkv = call_inner(self, self.qkv, inputs)
        qkv = ops.reshape(qkv, (-1, token_count(sizes), 3 * heads, self.head_dim))
        parts: Any = ops.split(qkv, 3, axis=2)
        query, key, value = parts
        mixed = operations.attention(query, key, value)
        mixed = ops.reshape(mixed, (-1, *sizes, channels))
        return call_inner(self, self.output_projection, mixed)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        config.update(head_dim=self.head_dim, use_bias=self.use_bias)
        return config
