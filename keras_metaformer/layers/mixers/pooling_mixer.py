"""The pooling token mixer of PoolFormer."""

import keras

from keras_metaformer.layers import operations
from keras_metaformer.layers.configured_layer import ConfiguredLayer
from keras_metaformer.layers.validation import map_or_sequence, positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class PoolingMixer(ConfiguredLayer):
    """Pooling token mixer: `y = average_pool(x) - x`.

    The average runs over a square window of stride 1; positions outside the map do not
    count. The input is subtracted because a block adds it again.

    Example:

    >>> import numpy as np
    >>> PoolingMixer()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        pool_size: odd int. Height and width of the window, in pixels; of a sequence its
            length in tokens.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `pool_size` is not a positive odd integer, or when built for
            neither a map nor a sequence.

    Reference:
        - MetaFormer Is Actually What You Need for Vision,
          https://arxiv.org/abs/2111.11418
    """

    makes_own_output = True

    #: Tells a builder that tokens must lie where their neighbours do.
    mixes_neighbours = True

    def __init__(self, pool_size=3, **kwargs):
        super().__init__(**kwargs)
        self.pool_size = positive_integer("pool_size", pool_size)
        if pool_size % 2 == 0:
            raise ValueError(
                f"`pool_size` must be odd. Received: pool_size={pool_size}"
            )

    def build(self, input_shape):
        map_or_sequence("PoolingMixer", input_shape)

    def call(self, inputs):
        pooled = operations.average_pool(inputs, self.pool_size)
        pooled -= inputs  # On torch in the memory of the means.
        return pooled

    def compute_output_shape(self, input_shape):
        return input_shape
