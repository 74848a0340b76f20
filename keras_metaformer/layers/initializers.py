"""The initial weights of the reference implementations."""

import contextlib
import contextvars
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

_DRAWING: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_metaformer_drawing", default=True
)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within it `TruncatedNormal` gives zeros, for weights that are loaded next.

    Drawing was 85 % of the time that a model with published weights took to build.
    """
    token = _DRAWING.set(False)
    try:
        yield
    finally:
        _DRAWING.reset(token)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class TruncatedNormal(keras.initializers.Initializer):
    """Normal with mean 0, redrawn beyond two standard deviations; drawn by NumPy.

    Keras' own initializer of this name draws on the backend, and JAX compiles a program
    for every shape: 16 of the 17 processor seconds that a ConvFormer-S18 took to build.
    A seed gives the same weights on every backend.

    Args:
        stddev: float. Standard deviation before the cut.
        seed: int, or None for one from Python's generator, which
            `keras.utils.set_random_seed` sets.
    """

    def __init__(self, stddev=0.02, seed=None):
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape, dtype=None):
        dtype = dtype or keras.config.floatx()
        if not _DRAWING.get():
            # From NumPy: JAX compiles a program of its own for zeros of every shape.
            return ops.convert_to_tensor(np.zeros(shape, "float32"), dtype=dtype)
        seed = random.randrange(2**32) if self.seed is None else self.seed
        generator = np.random.default_rng(seed)
        values = generator.standard_normal(shape, dtype="float32")
        outside = np.abs(values) > 2
        while outside.any():
            values[outside] = generator.standard_normal(outside.sum(), dtype="float32")
            outside = np.abs(values) > 2
        values *= self.stddev
        return ops.convert_to_tensor(values, dtype=dtype)

    def get_config(self):
        return {"stddev": self.stddev, "seed": self.seed}


def truncated_normal() -> Any:
    """Standard deviation 0.02, as all the reference codes start.

    Typed as Any: Keras' layers declare their initializers as str.
    """
    return TruncatedNormal(stddev=0.02)
