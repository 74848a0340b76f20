"""The class token of vision transformers, before the image's tokens and after them."""

import math

import keras
from keras import ops

from keras_metaformer.layers.configured_layer import ConfiguredLayer
from keras_metaformer.layers.tokens import flatten_tokens


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ClassToken(ConfiguredLayer):
    """Puts a learned token before those of a map or a sequence.

    Example:

    >>> import numpy as np
    >>> ClassToken()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 50, 8)

    Args:
        initializer: initializer of the token.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.

    Returns:
        Tensor `(batch, 1 + tokens, channels)`, in the layer's compute dtype.

    Reference:
        - An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
    """

    makes_own_output = True

    def __init__(self, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        self.token = self.add_weight(
            name="token", shape=(input_shape[-1],), initializer=self.initializer
        )

    def call(self, inputs):
        tokens = flatten_tokens(inputs)
        token = ops.convert_to_tensor(self.token, dtype=tokens.dtype)
        shape = (ops.shape(tokens)[0], 1, tokens.shape[-1])
        return ops.concatenate([ops.broadcast_to(token, shape), tokens], axis=1)

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        tokens = None if None in sizes else 1 + math.prod(sizes)
        return (batch, tokens, channels)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class FirstToken(ConfiguredLayer):
    """What a head takes of a sequence with a class token: `y = x[:, 0]`.

    Example:

    >>> import numpy as np
    >>> FirstToken()(np.ones((1, 50, 8), "float32")).shape
    (1, 8)

    Call arguments:
        inputs: float tensor `(batch, tokens, channels)`.

    Returns:
        Tensor `(batch, channels)`.
    """

    def call(self, inputs):
        return inputs[:, 0]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])
