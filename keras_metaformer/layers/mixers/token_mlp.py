"""The token-mixing MLP of MLP-Mixer."""

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
        use_bias: bool. Whether the two linear layers have biases.
        dropout: float in [0, 1). Rate of the dropout after either linear layer.
        seed: int, or None for a random one. Of the dropout.
        kernel_initializer: initializer of the kernels, None for Glorot's uniform one.
        bias_initializer: initializer of the biases, None for a normal with standard
            deviation 1e-6.
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

    def __init__(
        self,
        ratio=0.5,
        activation="gelu",
        use_bias=True,
        dropout=0.0,
        seed=None,
        kernel_initializer=None,
        bias_initializer=None,
        ratio_of="channels",
        **kwargs,
    ):
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
        self.use_bias = use_bias
        self.dropout = dropout
        self.seed = seed
        self.drop = (
            Dropout(dropout, seed=seed, dtype=self.dtype_policy) if dropout else None
        )
        self.kernel_initializer = make_initializer(kernel_initializer, glorot_uniform())
        self.bias_initializer = make_initializer(bias_initializer, near_zero())

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
        self.expand = self._linear(hidden, input_grid=grid)
        self.project = self._linear(tokens, output_grid=grid)
        super().build(input_shape)

    def flow(self, run, x):
        return run.over_tokens(
            x, self.expand, self.activation, self.drop, self.project, self.drop
        )

    def _linear(self, units, **grids):
        return TokenLinear(
            units,
            **grids,
            use_bias=self.use_bias,
            **linear_settings(self),
        )
