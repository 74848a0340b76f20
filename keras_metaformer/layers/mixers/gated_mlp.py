"""The gated MLP of gMLP, which mixes tokens and channels at once."""

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.initializers import (
    glorot_uniform,
    linear_settings,
    make_initializer,
    near_zero,
)
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
        use_bias: bool. Whether the two linear layers have biases; the gate
            keeps its own, by which it starts open.
        dropout: float in [0, 1). Rate of the dropout after the activation and at
            the end.
        seed: int, or None for a random one. Of the dropout.
        kernel_initializer: initializer of the kernels, None for Glorot's uniform one.
        bias_initializer: initializer of the biases, None for a normal with standard
            deviation 1e-6.
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

    def __init__(
        self,
        ratio=6,
        activation="gelu",
        gate_norm_epsilon=1e-5,
        use_bias=True,
        dropout=0.0,
        seed=None,
        kernel_initializer=None,
        bias_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.ratio = positive_integer("ratio", ratio)
        self.activation = make_activation(activation, self.dtype_policy)
        self.gate_norm_epsilon = gate_norm_epsilon
        self.use_bias = use_bias
        self.dropout = dropout
        self.seed = seed
        self.drop = (
            Dropout(dropout, seed=seed, dtype=self.dtype_policy) if dropout else None
        )
        self.kernel_initializer = make_initializer(kernel_initializer, glorot_uniform())
        self.bias_initializer = make_initializer(bias_initializer, near_zero())
        self.gate = SpatialGatingUnit(gate_norm_epsilon, dtype=self.dtype_policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        self.expand = self._linear(self.ratio * channels)
        self.project = self._linear(channels)
        super().build(input_shape)

    def flow(self, run, x):
        hidden = run(x, self.expand, self.activation, self.drop)
        return run(hidden, self.gate, self.project, self.drop)

    def _linear(self, units):
        return keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            **linear_settings(self),
        )
