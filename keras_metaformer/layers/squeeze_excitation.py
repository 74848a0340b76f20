"""Squeeze-and-excitation: channels weighted by what the whole image says."""

import keras
from keras import ops

from keras_metaformer.layers.composite import LayerWithParts
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.inner_call import call_inner
from keras_metaformer.layers.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class SqueezeExcitation(LayerWithParts):
    """Squeeze-and-excitation: `y = x * sigmoid(W2 relu(W1 mean(x)))`.

    Example:

    >>> import numpy as np
    >>> SqueezeExcitation()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        ratio: float in (0, 1]. Hidden channels for each channel of the input.
        divisor: int. The hidden channels are the nearest multiple of it, at least one;
            8 in FFNet.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `ratio` lies outside (0, 1], or `divisor` is not positive.

    Reference:
        - Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
    """

    def __init__(self, ratio=0.25, divisor=8, **kwargs):
        super().__init__(**kwargs)
        if not 0 < ratio <= 1:
            raise ValueError(f"`ratio` must lie in (0, 1]. Received: ratio={ratio}")
        self.ratio = ratio
        self.divisor = positive_integer("divisor", divisor)

    def build(self, input_shape):
        channels = input_shape[-1]
        # Halves upwards, as `make_divisible` of timm rounds.
        multiples = int(self.ratio * channels + self.divisor / 2) // self.divisor
        hidden = max(1, multiples) * self.divisor
        pooled = (input_shape[0], 1, 1, channels)
        self.squeeze = self._linear(hidden, "relu", "squeeze")
        self.excite = self._linear(channels, "sigmoid", "excite")
        self.squeeze.build(pooled)
        self.excite.build((*pooled[:-1], hidden))

    def _linear(self, units, activation, name):
        return keras.layers.Dense(
            units,
            activation=activation,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
            name=name,
        )

    def call(self, inputs):
        pooled = ops.mean(inputs, axis=(1, 2), keepdims=True)
        squeezed = call_inner(self, self.squeeze, pooled)
        return inputs * call_inner(self, self.excite, squeezed)

    def compute_output_shape(self, input_shape):
        return input_shape
