"""The norm of the PoolFormers: one group of channels, one image at a time."""

import keras
from keras import ops

from keras_metaformer.layers import operations


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ImageNormalization(keras.layers.GroupNormalization):
    """Normalises each image over height, width and channels, as the PoolFormers do.

    `y = gamma (x - mean) / sqrt(variance + epsilon) + beta` with one mean and variance
    an image, `gamma` and `beta` per channel: Keras' `GroupNormalization` with one
    group, through the backend's fused operation where it has one.

    Example:

    >>> import numpy as np
    >>> ImageNormalization()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        epsilon: float. Added to the variance.
        center: bool. Whether there is a learned `beta`.
        scale: bool. Whether there is a learned `gamma`.
        **kwargs: those of `keras.layers.GroupNormalization`, but `groups` and `axis`.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - Group Normalization, https://arxiv.org/abs/1803.08494
        - MetaFormer Is Actually What You Need for Vision,
          https://arxiv.org/abs/2111.11418
    """

    def __init__(self, epsilon=1e-6, center=True, scale=True, **kwargs):
        super().__init__(
            groups=1, epsilon=epsilon, center=center, scale=scale, **kwargs
        )

    def call(self, inputs):
        outputs = None
        if len(inputs.shape) == 4:
            gamma = self.gamma if self.scale else None
            beta = self.beta if self.center else None
            outputs = operations.image_norm(inputs, gamma, beta, self.epsilon)
        if outputs is None:
            return super().call(inputs)
        # Keras' layer does not cast its inputs: a float32 map may come in.
        return ops.cast(outputs, self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        del config["groups"], config["axis"]
        return config
