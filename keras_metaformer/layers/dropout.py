"""Dropout whose state has the same path in every model."""

import keras


@keras.saving.register_keras_serializable(package="keras_metaformer")
class Dropout(keras.layers.Dropout):
    """Dropout: `y = x * b / (1 - rate)` in training, with `b` drawn for each value.

    Keras' layer names the state of its generator by a count of all generators of the
    process; here it is named by the layer's place in the model, so that two models of
    one kind have equal state dicts on torch.

    Example:

    >>> import numpy as np
    >>> Dropout(0.5)(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        rate: float in [0, 1]. Probability that a value is dropped.
        noise_shape: shape of the draws, or None for one for each value.
        seed: int, or None for a random one.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor of any shape.
        training: bool. Whether to drop.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `rate` lies outside [0, 1].
    """

    def __init__(self, rate, noise_shape=None, seed=None, **kwargs):
        # At a rate of 0 Keras makes no generator: it is made in `build`.
        super().__init__(0, noise_shape, seed, **kwargs)
        if not 0 <= rate <= 1:
            raise ValueError(f"`rate` must lie in [0, 1]. Received: rate={rate}")
        self.rate = rate

    def build(self, input_shape):
        if self.rate > 0:
            self.seed_generator = keras.random.SeedGenerator(
                self.seed, name="seed_generator"
            )
