"""The frozen random token mixer of RandFormer."""

import keras
from keras import ops

from keras_metaformer.layers.token_weights import OverTokens, TokenWeights
from keras_metaformer.layers.tokens import (
    flatten_tokens,
    grid_of,
    token_count,
    unflatten_tokens,
)
from keras_metaformer.layers.validation import static_size


@keras.saving.register_keras_serializable(package="keras_metaformer")
class RandomMixer(TokenWeights):
    """Random token mixer: `y = R x` with a frozen random matrix over the tokens.

    `R = softmax(U)` row by row, `U` uniform in [0, 1), of shape `(tokens, tokens)` with
    `tokens = height * width`. It is saved with the model and never trained, and ties
    the model to one image size.

    Example:

    >>> import numpy as np
    >>> RandomMixer(seed=0)(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        seed: int, or None for a random one.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, height and width, or tokens, known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: when built for an unknown height or width, or number of tokens.

    Reference:
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    makes_own_output = True

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, input_shape):
        sizes = static_size("RandomMixer", input_shape)
        tokens, self._grid = token_count(sizes), grid_of(sizes)
        self.random_matrix = self.add_weight(
            name="random_matrix",
            shape=(tokens, tokens),
            initializer=self._row_softmax,
            trainable=False,
        )

    def _row_softmax(self, shape, dtype=None):
        return ops.softmax(keras.random.uniform(shape, dtype=dtype, seed=self.seed))

    def over_tokens(self, variable):
        return OverTokens(self._grid, self._grid, outputs_first=True)

    def call(self, inputs):
        mixed = ops.matmul(self.random_matrix, flatten_tokens(inputs))
        return unflatten_tokens(mixed, inputs.shape[1:-1])

    def compute_output_shape(self, input_shape):
        return input_shape
