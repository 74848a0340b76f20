"""The plain convolution as a token mixer."""

import keras

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.validation import map_or_sequence, odd_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ConvolutionMixer(Composite):
    """Convolution token mixer: `y = W * x + b`, which mixes channels too.

    Example:

    >>> import numpy as np
    >>> ConvolutionMixer()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        kernel_size: odd int. Height and width of the kernel, in pixels; of a sequence
            its length in tokens.
        use_bias: bool. Whether there is a learned bias per channel.
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
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    #: Tells a builder that tokens must lie where their neighbours do.
    mixes_neighbours = True

    def __init__(
        self,
        kernel_size=3,
        use_bias=False,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_size = odd_integer("kernel_size", kernel_size)
        self.use_bias = use_bias
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        sizes = map_or_sequence("ConvolutionMixer", input_shape)
        kind = keras.layers.Conv1D if len(sizes) == 1 else keras.layers.Conv2D
        self.convolution = kind(
            input_shape[-1],
            self.kernel_size,
            padding="same",
            use_bias=self.use_bias,
            data_format="channels_last",
            **linear_settings(self),
        )
        super().build(input_shape)

    def flow(self, run, x):
        return run(x, self.convolution)
