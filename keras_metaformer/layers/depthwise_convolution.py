"""Depthwise convolution with the padding of the reference implementations."""

import keras

from keras_metaformer.layers import operations
from keras_metaformer.layers.configured_layer import ConfiguredLayer
from keras_metaformer.layers.validation import (
    map_or_sequence,
    odd_integer,
    positive_integer,
)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class DepthwiseConvolution(ConfiguredLayer):
    """Depthwise convolution: each channel is filtered by kernels of its own.

    `y[i, j, c m + n] = sum_uv kernel[u, v, c, n] x[s i + u - p, s j + v - p, c]` with
    stride `s`, depth multiplier `m` and padding `p = kernel_size // 2` on every side,
    as in PyTorch (Keras' "same" pads otherwise where the stride is 2). With a dilation
    rate `d` the taps are `d u - d p` and `d v - d p` away. For sequences the kernels
    are of one dimension.

    Example:

    >>> import numpy as np
    >>> DepthwiseConvolution(7)(np.ones((1, 14, 14, 8), "float32")).shape
    (1, 14, 14, 8)

    Args:
        kernel_size: odd int. Height and width of the kernels, in pixels; for sequences
            their length in tokens.
        strides: int. Step in all directions, in pixels or tokens.
        depth_multiplier: int. Output channels for each input channel.
        use_bias: bool. Whether to add a learned bias per output channel.
        kernel_initializer: initializer of the kernels.
        bias_initializer: initializer of the biases.
        dilation_rate: int. Distance of the taps, in pixels.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.

    Returns:
        Tensor `(batch, height // strides, width // strides, channels *
        depth_multiplier)` or `(batch, tokens // strides, channels * depth_multiplier)`,
        sizes rounded up, in the layer's compute dtype.

    Raises:
        ValueError: if `kernel_size` is even, an argument is not positive, `strides` and
            `dilation_rate` are both above 1, which TensorFlow does not have, or when
            built for neither a map nor a sequence.
    """

    makes_own_output = True

    #: Tells a builder that tokens must lie where their neighbours do.
    mixes_neighbours = True

    def __init__(
        self,
        kernel_size,
        strides=1,
        depth_multiplier=1,
        use_bias=False,
        kernel_initializer="variance_scaling",
        bias_initializer="zeros",
        dilation_rate=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = odd_integer("kernel_size", kernel_size)
        self.strides = positive_integer("strides", strides)
        self.depth_multiplier = positive_integer("depth_multiplier", depth_multiplier)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.dilation_rate = positive_integer("dilation_rate", dilation_rate)
        if strides > 1 and dilation_rate > 1:
            raise ValueError(
                "One of `strides` and `dilation_rate` must be 1. "
                f"Received: strides={strides}, dilation_rate={dilation_rate}"
            )

    def build(self, input_shape):
        channels = input_shape[-1]
        sizes = map_or_sequence("DepthwiseConvolution", input_shape)
        area = (self.kernel_size,) * len(sizes)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*area, channels, self.depth_multiplier),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(channels * self.depth_multiplier,),
                initializer=self.bias_initializer,
            )

    def call(self, inputs):
        outputs = operations.depthwise_convolution(
            inputs, self.kernel, self.strides, self.dilation_rate
        )
        return outputs + self.bias if self.use_bias else outputs

    def compute_output_shape(self, input_shape):
        batch, *sizes, channels = input_shape
        strided = (None if size is None else -(-size // self.strides) for size in sizes)
        return (batch, *strided, channels * self.depth_multiplier)
