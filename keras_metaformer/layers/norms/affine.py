"""Affine, ResMLP's stand-in for a norm."""

import keras

from keras_metaformer.layers.configured_layer import ConfiguredLayer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class Affine(ConfiguredLayer):
    """Affine: `y = scale * x + offset`, one of each per channel.

    It takes the place of a norm and computes no statistics.

    Example:

    >>> import numpy as np
    >>> Affine()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        use_bias: bool. Whether there is an offset.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(..., channels)`.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - ResMLP: Feedforward networks for image classification with data-efficient
          training, https://arxiv.org/abs/2105.03404
    """

    def __init__(self, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.use_bias = use_bias

    def build(self, input_shape):
        shape = (input_shape[-1],)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones")
        self.offset = None
        if self.use_bias:
            self.offset = self.add_weight(
                name="offset", shape=shape, initializer="zeros"
            )

    def call(self, inputs):
        scaled = inputs * self.scale
        return scaled if self.offset is None else scaled + self.offset

    def compute_output_shape(self, input_shape):
        return input_shape
