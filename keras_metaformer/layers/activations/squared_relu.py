"""Squared ReLU, the activation of the MetaFormer baselines' MLP head."""

import keras

from keras_metaformer.layers import operations
from keras_metaformer.layers.configured_layer import ConfiguredLayer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class SquaredReLU(ConfiguredLayer):
    """Squared ReLU: `relu(x) ** 2`.

    Example:

    >>> import numpy as np
    >>> SquaredReLU()(np.array([[-1.0, 3.0]])).shape
    (1, 2)

    Call arguments:
        inputs: float tensor of any shape.
        overwrite: bool. Whether no one else needs the inputs, so that the outputs may
            take their memory where no gradient is wanted.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - Primer: Searching for Efficient Transformers for Language Modeling,
          https://arxiv.org/abs/2109.08668
    """

    can_overwrite = True

    def call(self, inputs, overwrite=False):
        return operations.squared_relu(inputs, overwrite)

    def compute_output_shape(self, input_shape):
        return input_shape
