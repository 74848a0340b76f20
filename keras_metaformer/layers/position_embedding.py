"""Learned positions."""

import keras

from keras_metaformer.layers.token_weights import OverTokens, TokenWeights
from keras_metaformer.layers.validation import static_size


@keras.saving.register_keras_serializable(package="keras_metaformer")
class PositionEmbedding(TokenWeights):
    """Learned positions: `y = x + e` with a vector `e` of its own for every token.

    It ties a model to one image size, or one length of its sequences.

    Example:

    >>> import numpy as np
    >>> PositionEmbedding()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        initializer: initializer of the vectors.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, height and width, or tokens, known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: when built for an unknown height or width, or number of tokens.

    Reference:
        - An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929
        - MetaFormer Is Actually What You Need for Vision,
          https://arxiv.org/abs/2111.11418
    """

    makes_own_output = True

    def __init__(self, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape):
        sizes = static_size("PositionEmbedding", input_shape)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(*sizes, input_shape[-1]),
            initializer=self.initializer,
        )

    def call(self, inputs):
        return inputs + self.embeddings

    def over_tokens(self, variable):
        return OverTokens(is_map=len(variable.shape) == 3)

    def compute_output_shape(self, input_shape):
        return input_shape
