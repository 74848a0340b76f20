"""One residual step: norm, transform, scale, drop, add."""

import keras

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.scales.layer_scale import LayerScale
from keras_metaformer.layers.scales.res_scale import ResScale
from keras_metaformer.layers.stochastic_depth import StochasticDepth

#: Which branches carry a learned scale: (identity branch, transforming branch).
RESIDUAL_SCALINGS = {
    "none": (False, False),
    "residual": (True, False),
    "layer": (False, True),
    "branch": (True, True),
}


def check_residual_scaling(residual_scaling) -> str:
    """`residual_scaling`, or a ValueError that lists the known ones."""
    if residual_scaling not in RESIDUAL_SCALINGS:
        raise ValueError(
            f"`residual_scaling` must be one of {sorted(RESIDUAL_SCALINGS)}. "
            f"Received: residual_scaling={residual_scaling!r}"
        )
    return residual_scaling


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ResidualBranch(Composite):
    """Residual step: `y = r * x + drop(l * transform(norm(x)))`.

    `r` is ResScale's and `l` LayerScale's scale per channel, where they are asked for.

    Example:

    >>> import numpy as np
    >>> step = ResidualBranch(keras.layers.Dense(8), keras.layers.LayerNormalization())
    >>> step(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        transform: layer that keeps the shape: a token mixer or a channel MLP.
        norm: layer before it.
        residual_scaling: `"none"`, `"residual"` (ResScale), `"layer"` (LayerScale) or
            `"branch"` (both).
        residual_scale_initial_value: float. Where ResScale starts.
        layer_scale_initial_value: float. Where LayerScale starts.
        stochastic_depth_rate: float in [0, 1). Probability of dropping the branch.
        seed: int, or None for a random one. Of the stochastic depth.
        gradient_checkpointing: bool. Whether training keeps only the input of norm and
            transform and computes what lies between once more for the gradient: less
            memory for the time of one more forward pass. The result is the same, with
            batch norms and dropout too.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.
        training: bool. Whether to drop.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `residual_scaling` is unknown, or `transform` changes the shape,
            or is to be computed twice and changes variables that are not its own.
    """

    def __init__(
        self,
        transform,
        norm,
        residual_scaling="none",
        residual_scale_initial_value=1.0,
        layer_scale_initial_value=1e-5,
        stochastic_depth_rate=0.0,
        seed=None,
        gradient_checkpointing=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.transform = transform
        self.norm = norm
        self.residual_scaling = check_residual_scaling(residual_scaling)
        self.residual_scale_initial_value = residual_scale_initial_value
        self.layer_scale_initial_value = layer_scale_initial_value
        self.stochastic_depth_rate = stochastic_depth_rate
        self.seed = seed
        self.gradient_checkpointing = bool(gradient_checkpointing)
        with_residual_scale, with_layer_scale = RESIDUAL_SCALINGS[residual_scaling]
        self.residual_scale = (
            ResScale(residual_scale_initial_value, dtype=self.dtype_policy)
            if with_residual_scale
            else None
        )
        self.layer_scale = (
            LayerScale(layer_scale_initial_value, dtype=self.dtype_policy)
            if with_layer_scale
            else None
        )
        self.stochastic_depth = (
            StochasticDepth(stochastic_depth_rate, seed, dtype=self.dtype_policy)
            if stochastic_depth_rate
            else None
        )

    def flow(self, run, x):
        start = run.recomputed if self.gradient_checkpointing else run
        branch = start(x, self.norm, self.transform, self.layer_scale)
        branch = run(branch, self.stochastic_depth)
        return run.add(x, branch, self.residual_scale)
