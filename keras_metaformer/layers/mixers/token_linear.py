"""A linear layer over the tokens, the same for every channel."""

import keras
from keras import ops

from keras_metaformer.layers.initializers import make_initializer, truncated_normal
from keras_metaformer.layers.token_weights import OverTokens, TokenWeights
from keras_metaformer.layers.validation import positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class TokenLinear(TokenWeights):
    """Linear layer over the tokens: `y[u, c] = sum_t kernel[t, u] x[t, c] + bias[u]`.

    Example:

    >>> import numpy as np
    >>> TokenLinear(16)(np.ones((1, 49, 8), "float32")).shape
    (1, 16, 8)

    Args:
        units: int. Tokens of the output.
        input_grid: `(height, width)` of the map that the input's tokens are, or None
            where they are no map. With `output_grid` it says how to resize the kernel
            for another image size.
        output_grid: likewise for the output's tokens.
        kernel_initializer: initializer of the kernel, None for a normal with standard
            deviation 0.02.
        bias_initializer: initializer of the bias.
        use_bias: bool. Whether there is a bias.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, tokens, channels)`.

    Returns:
        Tensor `(batch, units, channels)`, in the layer's compute dtype.
    """

    makes_own_output = True

    def __init__(
        self,
        units,
        input_grid=None,
        output_grid=None,
        kernel_initializer=None,
        bias_initializer="zeros",
        use_bias=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = positive_integer("units", units)
        self.input_grid = input_grid
        self.output_grid = output_grid
        self.use_bias = use_bias
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[1], self.units),
            initializer=self.kernel_initializer,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.units,), initializer=self.bias_initializer
            )

    def call(self, inputs):
        mixed = ops.matmul(ops.transpose(self.kernel), inputs)
        return mixed if self.bias is None else mixed + ops.expand_dims(self.bias, -1)

    def over_tokens(self, variable):
        inputs = self.input_grid if len(variable.shape) == 2 else None
        return OverTokens(inputs, self.output_grid)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units, input_shape[2])
