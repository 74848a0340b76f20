"""Affine, ResMLP's stand-in for a norm."""

import keras

from keras_metaformer.layers.plain_layer import PlainLayer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class Affine(PlainLayer):
    """Affine: `y = scale * x + offset`, one of each per channel.

    It takes the place of a norm and computes no statistics.

    Example:

    >>> import numpy as np
    >>> Affine()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Call arguments:
        inputs: float tensor `(..., channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - ResMLP: Feedforward networks for image classification with data-efficient
          training, https://arxiv.org/abs/2105.03404
    """

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.offset = self.add_weight(name="offset", shape=shape, initializer="zeros")

    def call(self, inputs):
        return inputs * self.scale + self.offset

    def compute_output_shape(self, input_shape):
        return input_shape
