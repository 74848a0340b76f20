"""The spatial gating unit of gMLP."""

from typing import Any

import keras
from keras import ops

from keras_metaformer.layers.composite import LayerWithParts
from keras_metaformer.layers.initializers import near_zero
from keras_metaformer.layers.inner_call import call_inner
from keras_metaformer.layers.mixers.token_linear import TokenLinear
from keras_metaformer.layers.tokens import (
    flatten_tokens,
    grid_of,
    token_count,
    unflatten_tokens,
)
from keras_metaformer.layers.validation import static_size


@keras.saving.register_keras_serializable(package="keras_metaformer")
class SpatialGatingUnit(LayerWithParts):
    """Spatial gating unit: `y = u * (W norm(v) + b)` with `u, v` the channels' halves.

    `W` mixes the tokens; it starts near 0 and `b` at 1, so that the unit starts as the
    identity on `u`.

    Example:

    >>> import numpy as np
    >>> SpatialGatingUnit()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 4)

    Args:
        norm_epsilon: float. Added to the variance in the norm.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`, height and width, or tokens, known.

    Returns:
        Tensor `(batch, height, width, channels // 2)` or `(batch, tokens,
        channels // 2)`, in the layer's compute dtype.

    Raises:
        ValueError: when built for an odd number of channels, or for an unknown height
            or width, or number of tokens.

    Reference:
        - Pay Attention to MLPs, https://arxiv.org/abs/2105.08050
    """

    #: Tells a builder to ask for a known height and width even without the top.
    needs_static_size = True

    def __init__(self, norm_epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.norm_epsilon = norm_epsilon
        self.norm = keras.layers.LayerNormalization(
            epsilon=norm_epsilon, dtype=self.dtype_policy, name="norm"
        )

    def build(self, input_shape):
        batch, channels = input_shape[0], input_shape[-1]
        if channels % 2:
            raise ValueError(
                "`SpatialGatingUnit` halves the channels, so they must be even. "
                f"Received: channels={channels}"
            )
        sizes = static_size("SpatialGatingUnit", input_shape)
        tokens, grid = token_count(sizes), grid_of(sizes)
        self.projection = TokenLinear(
            tokens,
            input_grid=grid,
            output_grid=grid,
            kernel_initializer=near_zero(),
            bias_initializer="ones",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm.build((*input_shape[:-1], channels // 2))
        self.projection.build((batch, tokens, channels // 2))

    def call(self, inputs):
        halves: Any = ops.split(inputs, 2, axis=-1)
        kept, gate = halves
        gate = flatten_tokens(call_inner(self, self.norm, gate))
        gate = call_inner(self, self.projection, gate)
        return kept * unflatten_tokens(gate, inputs.shape[1:-1])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 2)
