"""Stochastic depth: whole branches dropped, sample by sample."""

import keras
from keras import ops

from keras_metaformer.layers.configured_layer import ConfiguredLayer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class StochasticDepth(ConfiguredLayer):
    """Stochastic depth: in training, a sample's branch is zero with probability `rate`.

    `y = x * b / (1 - rate)` with `b` one Bernoulli(1 - rate) draw per sample; outside
    training `y = x`. The draws come from the layer's own seed generator.

    Example:

    >>> import numpy as np
    >>> StochasticDepth(0.1, seed=0)(np.ones((2, 7, 7, 8)), training=True).shape
    (2, 7, 7, 8)

    Args:
        rate: float in [0, 1). Probability that a sample's branch is dropped.
        seed: int, or None for a random one.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, ...)`.
        training: bool. Whether to drop.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `rate` lies outside [0, 1).

    Reference:
        - Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382
    """

    def __init__(self, rate, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must lie in [0, 1). Received: rate={rate}")
        self.rate = float(rate)
        self.seed = seed

    def build(self, input_shape):
        # Made here, where the paths of variables begin with the path of the layer.
        self.seed_generator = keras.random.SeedGenerator(
            self.seed, name="seed_generator"
        )

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        draw = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        kept = ops.cast(draw >= self.rate, inputs.dtype)
        return inputs * (kept / (1.0 - self.rate))

    def compute_output_shape(self, input_shape):
        return input_shape
