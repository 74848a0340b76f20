"""The channel MLP of a MetaFormer block."""

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.validation import pair_of_bools


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ChannelMLP(Composite):
    """Channel MLP: `y = W2 act(W1 x)`, at every position by itself.

    Example:

    >>> import numpy as np
    >>> ChannelMLP()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        ratio: float. Hidden channels for each channel of the input.
        activation: name, layer, layer class or zero-argument factory.
        use_bias: bool, or a pair of them. Whether the two linear layers have biases.
        dropout: float in [0, 1). Rate of the dropout after either linear layer.
        seed: int, or None for a random one. Of the dropout.
        kernel_initializer: initializer of the kernels, None for a normal with standard
            deviation 0.02.
        bias_initializer: initializer of the biases.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(..., channels)`.
        training: bool. Whether to drop.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `ratio` is not positive, or gives no hidden channel, or
            `use_bias` is neither a bool nor a pair.

    Reference:
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    def __init__(
        self,
        ratio=4.0,
        activation="star_relu",
        use_bias=False,
        dropout=0.0,
        seed=None,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if ratio <= 0:
            raise ValueError(f"`ratio` must be positive. Received: ratio={ratio}")
        self.ratio = ratio
        self.activation = make_activation(activation, self.dtype_policy)
        self.use_bias = use_bias
        self._expand_bias, self._project_bias = pair_of_bools("use_bias", use_bias)
        self.dropout = dropout
        self.seed = seed
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.drop = (
            Dropout(dropout, seed=seed, dtype=self.dtype_policy) if dropout else None
        )

    def build(self, input_shape):
        channels = input_shape[-1]
        hidden = int(self.ratio * channels)
        if hidden < 1:
            raise ValueError(
                "`ratio` times the channels must give at least one hidden channel. "
                f"Received: ratio={self.ratio}, channels={channels}"
            )
        self.expand = self._linear(hidden, self._expand_bias)
        self.project = self._linear(channels, self._project_bias)
        super().build(input_shape)

    def flow(self, run, x):
        return run(x, self.expand, self.activation, self.drop, self.project, self.drop)

    def _linear(self, units, use_bias):
        return keras.layers.Dense(
            units,
            use_bias=use_bias,
            **linear_settings(self),
        )
