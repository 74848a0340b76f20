"""The cross-patch linear token mixer of ResMLP."""

import keras

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.mixers.token_linear import TokenLinear
from keras_metaformer.layers.tokens import grid_of, token_count
from keras_metaformer.layers.validation import static_size


@keras.saving.register_keras_serializable(package="keras_metaformer")
class CrossPatchLinear(Composite):
    """Cross-patch linear token mixer: `y = W x + b` over the tokens.

    Example:

    >>> import numpy as np
    >>> CrossPatchLinear()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        use_bias: bool. Whether there is a bias for each token.
        kernel_initializer: initializer of the kernels, None for a normal with standard
            deviation 0.02.
        bias_initializer: initializer of the biases.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, height and width, or tokens, known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: when built for an unknown height or width, or number of tokens.

    Reference:
        - ResMLP: Feedforward networks for image classification with data-efficient
          training, https://arxiv.org/abs/2105.03404
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def __init__(
        self,
        use_bias=True,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.use_bias = use_bias
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        sizes = static_size("CrossPatchLinear", input_shape)
        self.linear = TokenLinear(
            token_count(sizes),
            input_grid=grid_of(sizes),
            output_grid=grid_of(sizes),
            use_bias=self.use_bias,
            **linear_settings(self),
        )
        super().build(input_shape)

    def flow(self, run, x):
        return run.over_tokens(x, self.linear)
