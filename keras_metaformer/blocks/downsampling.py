"""Strided convolutions: the stem and the steps between stages."""

import keras
from keras import ops

from keras_metaformer.layers import operations
from keras_metaformer.layers.composite import LayerWithParts
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.inner_call import call_inner
from keras_metaformer.layers.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class Downsampling(LayerWithParts):
    """Downsampling: `post_norm(convolution(pre_norm(x)))` with a strided convolution.

    With a kernel as large as the stride and no padding it is a patch embedding.

    Example:

    >>> import numpy as np
    >>> Downsampling(64, 7, 4, 2)(np.ones((1, 224, 224, 3), "float32")).shape
    (1, 56, 56, 64)

    Args:
        filters: int. Output channels.
        kernel_size: int. Height and width of the kernels, in pixels.
        strides: int. Step in both directions, in pixels.
        padding: int. Zeros added on every side, in pixels. Explicit, because Keras'
            "same" pads the two sides differently where the stride is not 1 and so
            shifts the map against the reference.
        pre_norm: layer before the convolution, or None.
        post_norm: layer after it, or None.
        use_bias: bool. Whether the convolution has a bias.
        kernel_initializer: initializer of the kernel, None for a normal with standard
            deviation 0.02.
        bias_initializer: initializer of the bias.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Returns:
        Tensor `(batch, new_height, new_width, filters)`, in the layer's compute dtype,
        with `new = (size + 2 * padding - kernel_size) // strides + 1`.

    Raises:
        ValueError: if a size is not positive, or the padded input is smaller than the
            kernel.
    """

    def __init__(
        self,
        filters,
        kernel_size,
        strides,
        padding=0,
        pre_norm=None,
        post_norm=None,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = positive_integer("filters", filters)
        self.kernel_size = positive_integer("kernel_size", kernel_size)
        self.strides = positive_integer("strides", strides)
        self.padding = padding
        self.pre_norm = pre_norm
        self.post_norm = post_norm
        self.use_bias = use_bias
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.convolution = keras.layers.Conv2D(
            filters,
            kernel_size,
            strides,
            padding="valid",
            use_bias=use_bias,
            data_format="channels_last",
            **linear_settings(self),
            name="convolution",
        )

    def build(self, input_shape):
        output_shape = self.compute_output_shape(input_shape)
        # Norms of a saved layer come built.
        if self.pre_norm is not None and not self.pre_norm.built:
            self.pre_norm.build(input_shape)
        self.convolution.build(self.padded_shape(input_shape))
        if self.post_norm is not None and not self.post_norm.built:
            self.post_norm.build(output_shape)

    def call(self, inputs, training=False):
        x = inputs
        if self.pre_norm is not None:
            x = call_inner(self, self.pre_norm, x, training)
        x = self._convolve(x)
        if self.post_norm is not None:
            x = call_inner(self, self.post_norm, x, training)
        return x

    def _convolve(self, x):
        layer = self.convolution
        outputs = operations.convolution(
            x, layer.kernel, layer.bias, self.strides, self.padding
        )
        if outputs is not None:
            return outputs
        if self.padding:
            pad = (self.padding, self.padding)
            x = ops.pad(x, ((0, 0), pad, pad, (0, 0)))
        return layer(x)

    def compute_output_shape(self, input_shape):
        batch, *sizes, _ = input_shape
        return (batch, *(self._output_size(size) for size in sizes), self.filters)

    def padded_shape(self, input_shape):
        """The shape that the convolution sees, zeros on every side included."""
        batch, *sizes, channels = input_shape
        added = 2 * self.padding
        sizes = (None if size is None else size + added for size in sizes)
        return (batch, *sizes, channels)

    def _output_size(self, size):
        if size is None:
            return None
        padded = size + 2 * self.padding
        if padded < self.kernel_size:
            raise ValueError(
                f"The input of `{self.name}` must be at least "
                f"{self.kernel_size - 2 * self.padding} pixels high and wide. "
                f"Received: {size} pixels"
            )
        return (padded - self.kernel_size) // self.strides + 1
