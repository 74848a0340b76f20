"""LayerScale, the scale on the transforming branch of a block."""

import keras

from keras_metaformer.layers.scales.channel_scale import ChannelScale


@keras.saving.register_keras_serializable(package="keras_metaformer")
class LayerScale(ChannelScale):
    """LayerScale: the transforming branch of a block times a learned scale per channel.

    `y = x + scale * f(norm(x))`; this layer is the product `scale * f`. It starts near
    zero, so that a deep network starts near the identity.

    Example:

    >>> import numpy as np
    >>> LayerScale(1e-5)(np.ones((1, 7, 7, 8))).shape
    (1, 7, 7, 8)

    Args:
        initial_value: float. Where every channel's scale starts.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(..., channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - Going deeper with Image Transformers, https://arxiv.org/abs/2103.17239
    """

    def __init__(self, initial_value=1e-5, **kwargs):
        super().__init__(initial_value, **kwargs)
