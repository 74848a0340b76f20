"""Depthwise, then pointwise: the separable convolution as it was first written."""

import keras

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class DepthwiseSeparableMixer(Composite):
    """Depthwise separable convolution token mixer: `y = project(depthwise(x))`.

    The separable convolution of MobileNet: a depthwise convolution, then a pointwise
    layer. ConvFormer's, the inverted one, is `SeparableConvolutionMixer`.

    Example:

    >>> import numpy as np
    >>> DepthwiseSeparableMixer()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        kernel_size: odd int. Height and width of the depthwise kernels, in pixels; of a
            sequence their length in tokens.
        use_bias: bool. Whether the two layers have biases.
        kernel_initializer: initializer of the kernels, None for a normal with standard
            deviation 0.02.
        bias_initializer: initializer of the biases.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `kernel_size` is not a positive odd integer, or when built for
            neither a map nor a sequence.

    Reference:
        - MobileNets, https://arxiv.org/abs/1704.04861
    """

    def __init__(
        self,
        kernel_size=3,
        use_bias=False,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.use_bias = use_bias
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.depthwise = DepthwiseConvolution(
            kernel_size,
            use_bias=use_bias,
            **linear_settings(self),
        )

    def build(self, input_shape):
        self.project = keras.layers.Dense(
            input_shape[-1],
            use_bias=self.use_bias,
            **linear_settings(self),
        )
        super().build(input_shape)

    def flow(self, run, x):
        return run(x, self.depthwise, self.project)
