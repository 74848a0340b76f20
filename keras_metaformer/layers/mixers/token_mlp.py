"""The token-mixing MLP of MLP-Mixer."""

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.mixers.token_linear import TokenLinear
from keras_metaformer.layers.validation import static_size


@keras.saving.register_keras_serializable(package="keras_metaformer")
class TokenMLP(Composite):
    """Token-mixing MLP: `y = W2 act(W1 x)` over the tokens, for each channel by itself.

    Example:

    >>> import numpy as np
    >>> TokenMLP()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        ratio: float. Hidden tokens for each *channel* of the input, as MLP-Mixer
            counts.
        activation: name, layer, layer class or zero-argument factory.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, height and width known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `ratio` gives no hidden token, or when built for an unknown
            height or width.

    Reference:
        - MLP-Mixer: An all-MLP Architecture for Vision,
          https://arxiv.org/abs/2105.01601
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def __init__(self, ratio=0.5, activation="gelu", **kwargs):
        super().__init__(**kwargs)
        if ratio <= 0:
            raise ValueError(f"`ratio` must be positive. Received: ratio={ratio}")
        self.ratio = ratio
        self.activation = make_activation(activation, self.dtype_policy)

    def build(self, input_shape):
        grid = static_size("TokenMLP", input_shape)
        tokens, channels = grid[0] * grid[1], input_shape[-1]
        hidden = int(self.ratio * channels)
        if hidden < 1:
            raise ValueError(
                "`ratio` times the channels must give at least one hidden token. "
                f"Received: ratio={self.ratio}, channels={channels}"
            )
        self.expand = TokenLinear(hidden, input_grid=grid, dtype=self.dtype_policy)
        self.project = TokenLinear(tokens, output_grid=grid, dtype=self.dtype_policy)
        super().build(input_shape)

    def flow(self, run, x):
        return run.over_tokens(x, self.expand, self.activation, self.project)

    def get_config(self):
        config = super().get_config()
        config.update(
            ratio=self.ratio,
            activation=keras.saving.serialize_keras_object(self.activation),
        )
        return config
