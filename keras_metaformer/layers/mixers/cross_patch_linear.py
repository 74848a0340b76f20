"""The cross-patch linear token mixer of ResMLP."""

import keras

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.mixers.token_linear import TokenLinear
from keras_metaformer.layers.validation import static_size


@keras.saving.register_keras_serializable(package="keras_metaformer")
class CrossPatchLinear(Composite):
    """Cross-patch linear token mixer: `y = W x + b` over the tokens.

    Example:

    >>> import numpy as np
    >>> CrossPatchLinear()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, height and width known.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: when built for an unknown height or width.

    Reference:
        - ResMLP: Feedforward networks for image classification with data-efficient
          training, https://arxiv.org/abs/2105.03404
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def build(self, input_shape):
        grid = static_size("CrossPatchLinear", input_shape)
        tokens = grid[0] * grid[1]
        self.linear = TokenLinear(
            tokens,
            input_grid=grid,
            output_grid=grid,
            dtype=self.dtype_policy,
        )
        super().build(input_shape)

    def flow(self, run, x):
        return run.over_tokens(x, self.linear)
