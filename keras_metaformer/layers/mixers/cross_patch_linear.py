"""The cross-patch linear token mixer of ResMLP."""

import keras

from keras_metaformer.layers.composite import Composite
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

    def build(self, input_shape):
        sizes = static_size("CrossPatchLinear", input_shape)
        self.linear = TokenLinear(
            token_count(sizes),
            input_grid=grid_of(sizes),
            output_grid=grid_of(sizes),
            dtype=self.dtype_policy,
        )
        super().build(input_shape)

    def flow(self, run, x):
        return run.over_tokens(x, self.linear)
