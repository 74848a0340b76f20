"""An exponential moving average of all weights, moved once an update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_metaformer.arrays import to_numpy


class WeightAverage:
    """The average of a model's weights: `average = decay * average + (1 - decay) * w`.

    It takes in all of `model.weights`, the statistics of batch norms among them, starts
    as these are when it is made, and lives in variables of its own: the model, its
    optimizer and its file know nothing of it. Whole numbers are copied. Seeds are no
    weights.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> average = WeightAverage(model, decay=0.9)
    >>> average.update()
    >>> with average.applied():
    ...     predictions = model.predict(np.zeros((1, 4)), verbose=0)

    Args:
        model: a built model.
        decay: in [0, 1).

    Raises:
        ValueError: if `decay` is out of range, or the model has no weights yet.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1). Received: decay={decay}")
        if not model.weights:
            raise ValueError(
                "The model must be built before its weights are averaged. Received: a "
                f"model without weights, {model.name!r}"
            )
        self.model = model
        self.decay = float(decay)
        self._applied = False
        self._move: Callable[[], None] | None = None
        self.variables = [
            keras.Variable(
                to_numpy(weight),
                dtype=_dtype_of_average(weight.dtype),
                trainable=False,
                name="average",
            )
            for weight in model.weights
        ]

    def update(self) -> None:
        """Move the average towards the weights; to be called once an update.

        Raises:
            RuntimeError: inside `applied`.
        """
        if self._applied:
            raise RuntimeError("The average cannot move while the model has it.")
        if self._move is None:
            self._move = _mover(self.variables, self.model.weights, self.decay)
        self._move()

    def get(self) -> list[np.ndarray]:
        """Copies of the averages as arrays, in the order of `model.weights`."""
        return [np.array(to_numpy(variable)) for variable in self.variables]

    def set(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes averages that `get` returned before.

        Raises:
            ValueError: if number or shapes are not those of the model's weights.
        """
        shapes = [tuple(variable.shape) for variable in self.variables]
        given = [np.shape(array) for array in arrays]
        if given != shapes:
            different = next(
                (
                    f"{weight.path}: {shape}, not {other}"
                    for weight, shape, other in zip(
                        self.model.weights, shapes, given, strict=False
                    )
                    if shape != other
                ),
                "see their number",
            )
            raise ValueError(
                f"`arrays` must be the averages of the {len(shapes)} weights of "
                f"{self.model.name!r} ({different}). Received: {len(given)} arrays"
            )
        for variable, array in zip(self.variables, arrays, strict=True):
            variable.assign(array)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averages in a `with` block, then its own weights back.

        The model's own weights come back bit for bit, after an exception too.

        Raises:
            RuntimeError: if it is entered twice.
        """
        if self._applied:
            raise RuntimeError("The model has the averaged weights already.")
        weights = self.model.weights
        own = [ops.copy(weight.value) for weight in weights]
        self._applied = True
        try:
            for weight, variable in zip(weights, self.variables, strict=True):
                # A copy: on JAX `evaluate` gives away the arrays that weights have.
                weight.assign(ops.copy(variable.value))
            yield
        finally:
            for weight, value in zip(weights, own, strict=True):
                weight.assign(value)
            self._applied = False


def _dtype_of_average(dtype: str) -> str:
    # In 16 bits a decay near 1 would change nothing.
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _mover(averages: list, weights: list, decay: float) -> Callable[[], None]:
    """A function that moves all averages at once, compiled where that is cheaper."""

    def moved(average, weight):
        if not keras.backend.is_float_dtype(average.dtype):
            return ops.cast(weight, average.dtype)
        return average * decay + ops.cast(weight, average.dtype) * (1.0 - decay)

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        step = jax.jit(
            lambda old, new: [moved(*pair) for pair in zip(old, new, strict=True)],
            donate_argnums=0,
        )

        def move() -> None:
            values = step([v.value for v in averages], [w.value for w in weights])
            for average, value in zip(averages, values, strict=True):
                average.assign(value)

        return move

    def move_each() -> None:
        for average, weight in zip(averages, weights, strict=True):
            average.assign(moved(average.value, weight.value))

    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(move_each)
    if backend == "torch":
        import torch

        return torch.no_grad()(move_each)
    return move_each


class AverageWeights(keras.callbacks.Callback):
    """Moves a `WeightAverage` after each update of `model.fit`.

    Under gradient accumulation that is once in so many batches.

    Args:
        average: what is moved. Its model is the one that is fitted, or a part of it.
    """

    def __init__(self, average: WeightAverage) -> None:
        super().__init__()
        self.average = average
        self._batches = 0
        self._accumulate = 1

    def on_train_begin(self, logs: Any = None) -> None:
        if self.model.steps_per_execution != 1:
            raise ValueError(
                "The average moves after each update: compile the model with "
                "steps_per_execution=1. Received: "
                f"steps_per_execution={self.model.steps_per_execution}"
            )
        optimizer = self.model.optimizer
        # A LossScaleOptimizer is around the one that accumulates.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._accumulate = optimizer.gradient_accumulation_steps or 1
        # Counted here from now on: to ask the device would mean to wait for it.
        self._batches = int(optimizer._iterations.numpy())

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches += 1
        if self._batches % self._accumulate == 0:
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            self.average.update()
