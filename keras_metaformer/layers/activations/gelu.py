"""GELU as a layer, exact or by its tanh approximation."""

import keras

from keras_metaformer.layers import operations
from keras_metaformer.layers.configured_layer import ConfiguredLayer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class GELU(ConfiguredLayer):
    """GELU: `x * Phi(x)` with Phi the standard normal distribution function.

    `keras.layers.Activation("gelu")` cannot say which form it means; checkpoints can:
    Google's MLP-Mixer was trained with the tanh approximation, PyTorch models with the
    exact form.

    Example:

    >>> import numpy as np
    >>> GELU(approximate=True)(np.zeros((1, 2))).shape
    (1, 2)

    Args:
        approximate: bool. Whether to use the tanh approximation.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor of any shape.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - Gaussian Error Linear Units, https://arxiv.org/abs/1606.08415
    """

    def __init__(self, approximate=False, **kwargs):
        super().__init__(**kwargs)
        self.approximate = approximate

    def call(self, inputs):
        return operations.gelu(inputs, self.approximate)

    def compute_output_shape(self, input_shape):
        return input_shape
