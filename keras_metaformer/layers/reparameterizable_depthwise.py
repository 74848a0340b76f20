"""A depthwise convolution trained as two branches."""

import keras

from keras_metaformer.layers.batch_normalized import BatchNormalized
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ReparameterizableDepthwise(Composite):
    """Depthwise convolution as a large and a small branch, each with its batch norm.

    `y = batch_norm(large(x)) + batch_norm(small(x))`; `keras_metaformer.fold` makes one
    convolution of it.

    Example:

    >>> import numpy as np
    >>> ReparameterizableDepthwise(7)(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        kernel_size: odd int, at least 3. Of the large branch, in pixels or tokens; the
            small one has half, rounded down to an odd number.
        strides: int. Step in all directions, in pixels or tokens.
        depth_multiplier: int. Output channels for each input channel.
        use_bias: bool. Whether the batch norms have offsets.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.
        training: bool. Whether to normalise by the batch's own statistics.

    Returns:
        Tensor of the shape that `DepthwiseConvolution` makes.

    Raises:
        ValueError: if `kernel_size` is even or below 3, or another argument is not
            positive.

    Reference:
        - RepVGG: Making VGG-style ConvNets Great Again, https://arxiv.org/abs/2101.03697
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """

    def __init__(
        self, kernel_size=7, strides=1, depth_multiplier=1, use_bias=True, **kwargs
    ):
        super().__init__(**kwargs)
        self.kernel_size = positive_integer("kernel_size", kernel_size)
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                "`kernel_size` must be odd and at least 3, so that there is a smaller "
                f"odd one for the second branch. Received: kernel_size={kernel_size}"
            )
        half = kernel_size // 2
        self.strides = strides
        self.depth_multiplier = depth_multiplier
        self.use_bias = use_bias
        self.large = self._branch(kernel_size)
        self.small = self._branch(half if half % 2 else half - 1)

    def _branch(self, kernel_size):
        convolution = DepthwiseConvolution(
            kernel_size,
            self.strides,
            self.depth_multiplier,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
        )
        return BatchNormalized(convolution, self.use_bias, dtype=self.dtype_policy)

    def flow(self, run, x):
        return run.add(run(x, self.large), run(x, self.small))
