"""ResScale, the scale on the residual (identity) branch of a block."""

import keras

from keras_metaformer.layers.scales.channel_scale import ChannelScale


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ResScale(ChannelScale):
    """ResScale: the identity branch of a block times a learned scale per channel.

    `y = scale * x + f(norm(x))`; this layer is the product `scale * x`.

    Example:

    >>> import numpy as np
    >>> ResScale()(np.ones((1, 7, 7, 8))).shape
    (1, 7, 7, 8)

    Args:
        initial_value: float. Where every channel's scale starts.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(..., channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - NormFormer, https://arxiv.org/abs/2110.09456
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    def __init__(self, initial_value=1.0, **kwargs):
        super().__init__(initial_value, **kwargs)
