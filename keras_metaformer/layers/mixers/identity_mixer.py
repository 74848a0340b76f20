"""The token mixer that does not mix."""

import keras

from keras_metaformer.layers.configured_layer import ConfiguredLayer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class IdentityMixer(ConfiguredLayer):
    """Identity token mixer: `y = x`, IdentityFormer's.

    Example:

    >>> import numpy as np
    >>> IdentityMixer()(np.ones((1, 7, 7, 8))).shape
    (1, 7, 7, 8)

    Call arguments:
        inputs: float tensor of any shape.

    Returns:
        The inputs.

    Reference:
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape
