"""An exponential moving average of all weights, moved once an update."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops


class WeightAverage:
    """The average of a model's weights: `average = decay * average + (1 - decay) * w`.

    It starts as the weights that the model has when this is made, and takes in all of
    `model.weights`, the statistics of batch norms too. Seeds are not weights; whole
    numbers are copied.

    Args:
        model: The model.
        decay: In [0, 1).
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"`decay` must lie in [0, 1). Received: decay={decay}")
        self.model = model
        self.decay = float(decay)
        self._values = [ops.copy(ops.convert_to_tensor(w)) for w in model.weights]

    def update(self) -> None:
        """Moves the average towards the weights; to be called once an update."""
        for index, weight in enumerate(self.model.weights):
            value = ops.convert_to_tensor(weight)
            if keras.backend.is_float_dtype(weight.dtype):
                value = self._values[index] * self.decay + value * (1.0 - self.decay)
            self._values[index] = value

    def get(self) -> list[np.ndarray]:
        """The averages as arrays, in the order of `model.weights`."""
        return [keras.ops.convert_to_numpy(value) for value in self._values]

    def set(self, arrays: Sequence[np.ndarray]) -> None:
        """Takes averages that `get` returned before.

        Raises:
            ValueError: if number or shapes are not those of the model's weights.
        """
        self._values = [
            ops.convert_to_tensor(array, dtype=weight.dtype)
            for array, weight in zip(arrays, self.model.weights, strict=True)
        ]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the averages in a `with` block, then its own weights back."""
        weights = self.model.weights
        own = [ops.copy(ops.convert_to_tensor(weight)) for weight in weights]
        try:
            for weight, value in zip(weights, self._values, strict=True):
                weight.assign(value)
            yield
        finally:
            for weight, value in zip(weights, own, strict=True):
                weight.assign(value)


class AverageWeights(keras.callbacks.Callback):
    """Moves a `WeightAverage` after each update of `model.fit`.

    Args:
        average: What is moved. Its model may be a part of the one that is fitted.
    """

    def __init__(self, average: WeightAverage) -> None:
        super().__init__()
        self.average = average
        self._updates = 0

    def on_train_begin(self, logs: Any = None) -> None:
        self._updates = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        updates = int(self.model.optimizer.iterations)
        if updates != self._updates:
            self._updates = updates
            self.average.update()
