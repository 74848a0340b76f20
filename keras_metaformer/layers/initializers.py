"""The initial weights of the reference implementations, drawn by NumPy.

Keras' own initializers draw on the backend, and JAX compiles a program for every shape:
16 of the 17 processor seconds that a ConvFormer-S18 took to build. A seed gives the
same weights on every backend.
"""

import contextlib
import contextvars
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metaformer.layers.configured_layer import kept_arguments

_DRAWING: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_metaformer_drawing", default=True
)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within it a `DrawnInitializer` gives zeros, for weights that are loaded next.

    Drawing was 85 % of the time that a model with published weights took to build.
    """
    token = _DRAWING.set(False)
    try:
        yield
    finally:
        _DRAWING.reset(token)


class DrawnInitializer(keras.initializers.Initializer):
    """What the initializers here share: their seed, and that `undrawn` stops them.

    One without a seed draws anew each time, so that layers may share it.

    Args:
        seed: int, or None for one from Python's generator, which
            `keras.utils.set_random_seed` sets.
    """

    def __init__(self, seed=None):
        self.seed = seed

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
        """Float32 values of this shape."""
        raise NotImplementedError(
            f"A DrawnInitializer defines `draw`. Received: {type(self).__name__}"
        )

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        dtype = dtype or keras.config.floatx()
        shape = tuple(shape)
        if not _DRAWING.get():
            # From NumPy: JAX compiles a program of its own for zeros of every shape.
            return ops.convert_to_tensor(np.zeros(shape, "float32"), dtype=dtype)
        seed = random.randrange(2**32) if self.seed is None else self.seed
        values = self.draw(np.random.default_rng(seed), shape)
        return ops.convert_to_tensor(values, dtype=dtype)

    def get_config(self):
        return {**kept_arguments(self, DrawnInitializer), "seed": self.seed}


@keras.saving.register_keras_serializable(package="keras_metaformer")
class TruncatedNormal(DrawnInitializer):
    """Normal with mean 0, redrawn beyond an absolute limit.

    With the limit in units of the weights, as timm's `trunc_normal_` has it, the values
    keep their standard deviation; Keras' initializer of this name cuts at two standard
    deviations and leaves 0.88 of it.

    Args:
        stddev: float. Standard deviation before the cut.
        seed: int, or None for another one each time.
        limit: float. The largest absolute value.
    """

    def __init__(self, stddev=0.02, seed=None, limit=2.0):
        super().__init__(seed)
        self.stddev = stddev
        self.limit = limit

    def draw(self, generator, shape):
        return self.stddev * _normal(generator, shape, self.limit / self.stddev)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class VarianceScaling(DrawnInitializer):
    """Values with mean 0 and variance `scale / fan`.

    Args:
        scale: float. Factor of the variance.
        mode: `"fan_in"`, or `"fan_avg"` for the mean of inputs and outputs of a unit.
        distribution: `"uniform"`, or `"truncated_normal"`, which is cut at two standard
            deviations and then scaled to the variance.
        seed: int, or None for another one each time.

    Raises:
        ValueError: if `mode` or `distribution` is neither of these.
    """

    def __init__(
        self, scale=1.0, mode="fan_in", distribution="truncated_normal", seed=None
    ):
        super().__init__(seed)
        self.scale = scale
        self.mode = _one_of("mode", mode, ("fan_in", "fan_avg"))
        self.distribution = _one_of(
            "distribution", distribution, ("truncated_normal", "uniform")
        )

    def draw(self, generator, shape):
        fan_in, fan_out = _fans(shape)
        fan = fan_in if self.mode == "fan_in" else (fan_in + fan_out) / 2
        stddev = math.sqrt(self.scale / fan)
        if self.distribution == "uniform":
            return _uniform(generator, shape, math.sqrt(3.0) * stddev)
        return stddev / _CUT_AT_TWO * _normal(generator, shape, 2.0)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class Uniform(DrawnInitializer):
    """Values between `-limit` and `limit`, each as likely.

    Args:
        limit: float. The largest absolute value.
        seed: int, or None for another one each time.
    """

    def __init__(self, limit=0.05, seed=None):
        super().__init__(seed)
        self.limit = limit

    def draw(self, generator, shape):
        return _uniform(generator, shape, self.limit)


#: Standard deviation of a standard normal that is cut at two.
_CUT_AT_TWO = 0.87962566103423978


def _normal(generator: np.random.Generator, shape: Any, limit: float) -> np.ndarray:
    """Standard normal values, redrawn beyond `limit`."""
    values = generator.standard_normal(shape, dtype="float32")
    outside = np.abs(values) > limit
    while outside.any():
        values[outside] = generator.standard_normal(outside.sum(), dtype="float32")
        outside = np.abs(values) > limit
    return values


def _uniform(generator: np.random.Generator, shape: Any, limit: float) -> np.ndarray:
    return np.float32(2 * limit) * (generator.random(shape, dtype="float32") - 0.5)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of a unit, of a kernel `(..., inputs, outputs)`."""
    *sizes, inputs, outputs = shape
    receptive_field = math.prod(sizes)
    return receptive_field * inputs, receptive_field * outputs


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"`{name}` must be one of {known}. Received: {name}={value!r}")
    return value


# Typed as Any: Keras' layers declare their initializers as str.


def make_initializer(spec: Any, default: Any) -> Any:
    """An initializer of what Keras takes for one, or `default` for None."""
    return default if spec is None else keras.initializers.get(spec)


def another(initializer: Any) -> Any:
    """The initializer for a further weight, which Keras' own draw the same for."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


def linear_settings(layer: Any) -> dict[str, Any]:
    """The arguments that the linear layers inside a layer have of it.

    Args:
        layer: has a `kernel_initializer` and a `bias_initializer`.
    """
    return {
        "kernel_initializer": another(layer.kernel_initializer),
        "bias_initializer": another(layer.bias_initializer),
        "dtype": layer.dtype_policy,
    }


def truncated_normal() -> Any:
    """Standard deviation 0.02: the kernels of all reference codes but those below."""
    return TruncatedNormal(stddev=0.02)


def near_zero() -> Any:
    """Standard deviation 1e-6: biases in MLP-Mixer and gMLP, gMLP's spatial gate."""
    return TruncatedNormal(stddev=1e-6)


def lecun_normal() -> Any:
    """Variance `1 / fan_in`: Flax' default; the patch embedding of MLP-Mixer, gMLP."""
    return VarianceScaling()


def glorot_uniform() -> Any:
    """Variance `2 / (fan_in + fan_out)`: linear layers in MLP-Mixer and gMLP."""
    return VarianceScaling(mode="fan_avg", distribution="uniform")


def pytorch_kernel() -> Any:
    """Up to `1 / sqrt(fan_in)`: PyTorch's default; PoolFormer's and ResMLP's stems."""
    return VarianceScaling(1 / 3, distribution="uniform")


def pytorch_bias(fan_in: int) -> Any:
    """Up to `1 / sqrt(fan_in)`, of the kernel beside this bias: PyTorch's default."""
    return Uniform(1 / math.sqrt(fan_in))
