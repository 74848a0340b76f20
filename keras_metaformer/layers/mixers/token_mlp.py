"""The token-mixing MLP of MLP-Mixer."""

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.mixers.token_linear import TokenLinear
from keras_metaformer.layers.tokens import grid_of, token_count
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
            counts, or for each token.
        activation: name, layer, layer class or zero-argument factory.
        ratio_of: `"channels"` or `"tokens"`. What `ratio` multiplies.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, height and width, or tokens, known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `ratio` gives no hidden token, `ratio_of` is neither of the two,
            or when built for an unknown height or width, or number of tokens.

    Reference:
        - MLP-Mixer: An all-MLP Architecture for Vision,
          https://arxiv.org/abs/2105.01601
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def __init__(self, ratio=0.5, activation="gelu", ratio_of="channels", **kwargs):
        super().__init__(**kwargs)
        if ratio <= 0:
            raise ValueError(f"`ratio` must be positive. Received: ratio={ratio}")
        if ratio_of not in ("channels", "tokens"):
            raise ValueError(
                "`ratio_of` must be 'channels' or 'tokens'. "
                f"Received: ratio_of={ratio_of!r}"
            )
        self.ratio = ratio
        self.ratio_of = ratio_of
        self.activation = make_activation(activation, self.dtype_policy)

    def build(self, input_shape):
        sizes = static_size("TokenMLP", input_shape)
        tokens, grid = token_count(sizes), grid_of(sizes)
        of = tokens if self.ratio_of == "tokens" else input_shape[-1]
        hidden = int(self.ratio * of)
        if hidden < 1:
            raise ValueError(
                f"`ratio` times the {self.ratio_of} must give at least one hidden "
                f"token. Received: ratio={self.ratio}, {self.ratio_of}={of}"
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
            ratio_of=self.ratio_of,
        )
        return config
