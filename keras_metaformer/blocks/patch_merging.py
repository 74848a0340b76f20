"""FFNet's step between stages."""

import keras

from keras_metaformer.layers.batch_normalized import BatchNormalizedSkip
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.reparameterizable_depthwise import (
    ReparameterizableDepthwise,
)
from keras_metaformer.layers.validation import positive_integer

#: Height and width of the depthwise kernels, in pixels.
MERGING_KERNEL_SIZE = 7


@keras.saving.register_keras_serializable(package="keras_metaformer")
class PatchMerging(Composite):
    """Patch merging: `y = projection(depthwise(x))`, the map halved, more channels.

    Example:

    >>> import numpy as np
    >>> PatchMerging()(np.ones((1, 14, 14, 8), "float32")).shape
    (1, 7, 7, 16)

    Args:
        depth_multiplier: int. Output channels for each input channel.
        strides: int. Step in both directions, in pixels.
        depthwise: the strided depthwise layer, or None for FFNet's own with two
            branches.
        projection: the layer over the channels, or None for FFNet's own: a batch norm
            and a linear layer beside the identity.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.
        training: bool. Whether batch norms use the batch's own statistics.

    Returns:
        Tensor `(batch, height // strides, width // strides, channels *
        depth_multiplier)`, sizes rounded up, in the layer's compute dtype.

    Reference:
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """

    def __init__(
        self,
        depth_multiplier=2,
        strides=2,
        depthwise=None,
        projection=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth_multiplier = positive_integer("depth_multiplier", depth_multiplier)
        self.strides = positive_integer("strides", strides)
        self.depthwise = depthwise or ReparameterizableDepthwise(
            MERGING_KERNEL_SIZE, strides, depth_multiplier, dtype=self.dtype_policy
        )
        self.projection = projection or BatchNormalizedSkip(dtype=self.dtype_policy)

    def flow(self, run, x):
        return run(x, self.depthwise, self.projection)
