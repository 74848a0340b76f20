"""The separable convolution token mixer of ConvFormer."""

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.initializers import (
    another,
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class SeparableConvolutionMixer(Composite):
    """Separable convolution token mixer: `y = project(depthwise(act(expand(x))))`.

    The inverted separable convolution of MobileNetV2: a pointwise layer to `expansion`
    times the channels, an activation, a depthwise convolution, a pointwise layer back.

    Example:

    >>> import numpy as np
    >>> SeparableConvolutionMixer()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        kernel_size: odd int. Height and width of the depthwise kernels, in pixels.
        expansion: int. Inner channels for each channel of the input.
        activation: name, layer, layer class or zero-argument factory.
        use_bias: bool. Whether the three linear layers have biases.
        output_activation: activation after the depthwise convolution, likewise, or None
            for none.
        dilation_rate: int. Distance of the depthwise kernels' taps, in pixels.
        kernel_initializer: initializer of the two pointwise layers' kernels, None
            for a normal with standard deviation 0.02.
        bias_initializer: initializer of the biases.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `kernel_size` is even, or a size is not positive.

    Reference:
        - MobileNetV2, https://arxiv.org/abs/1801.04381
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    def __init__(
        self,
        kernel_size=7,
        expansion=2,
        activation="star_relu",
        use_bias=False,
        output_activation=None,
        dilation_rate=1,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = kernel_size
        self.expansion = positive_integer("expansion", expansion)
        self.activation = make_activation(activation, self.dtype_policy)
        self.use_bias = use_bias
        self.output_activation = (
            None
            if output_activation is None
            else make_activation(output_activation, self.dtype_policy)
        )
        self.dilation_rate = dilation_rate
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.depthwise = DepthwiseConvolution(
            kernel_size,
            use_bias=use_bias,
            kernel_initializer=truncated_normal(),
            bias_initializer=another(self.bias_initializer),
            dilation_rate=dilation_rate,
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        channels = input_shape[-1]
        self.expand = self._pointwise(self.expansion * channels)
        self.project = self._pointwise(channels)
        super().build(input_shape)

    def flow(self, run, x):
        hidden = run(x, self.expand, self.activation, self.depthwise)
        return run(hidden, self.output_activation, self.project)

    def _pointwise(self, units):
        return keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            **linear_settings(self),
        )
