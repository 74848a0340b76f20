"""The gated MLP of gMLP, which mixes tokens and channels at once."""

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.mixers.spatial_gating_unit import SpatialGatingUnit
from keras_metaformer.layers.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class GatedMLP(Composite):
    """Gated MLP: `y = W2 gate(act(W1 x))` with a spatial gating unit.

    Example:

    >>> import numpy as np
    >>> GatedMLP()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        ratio: int. Hidden channels for each channel of the input, before the gate
            halves them.
        activation: name, layer, layer class or zero-argument factory.
        gate_norm_epsilon: float. Added to the variance in the gate's norm.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, height and width, or tokens, known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `ratio` is not a positive integer, if it gives an odd number of
            hidden channels, or when built for an unknown height or width, or number of
            tokens.

    Reference:
        - Pay Attention to MLPs, https://arxiv.org/abs/2105.08050
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def __init__(self, ratio=6, activation="gelu", gate_norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.ratio = positive_integer("ratio", ratio)
        self.activation = make_activation(activation, self.dtype_policy)
        self.gate_norm_epsilon = gate_norm_epsilon
        self.gate = SpatialGatingUnit(gate_norm_epsilon, dtype=self.dtype_policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        self.expand = self._linear(self.ratio * channels)
        self.project = self._linear(channels)
        super().build(input_shape)

    def flow(self, run, x):
        return run(x, self.expand, self.activation, self.gate, self.project)

    def _linear(self, units):
        return keras.layers.Dense(
            units,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
        )

    def get_config(self):
        config = super().get_config()
        config.update(
            ratio=self.ratio,
            activation=keras.saving.serialize_keras_object(self.activation),
            gate_norm_epsilon=self.gate_norm_epsilon,
        )
        return config
