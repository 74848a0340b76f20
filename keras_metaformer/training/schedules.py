"""Learning rates: a cosine that changes once an epoch, with warmup and cooldown."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops


def epoch_schedule(
    peak: float,
    epochs: int,
    warmup_epochs: int = 0,
    warmup_rate: float = 1e-6,
    floor: float = 1e-5,
    cooldown_epochs: int = 0,
) -> np.ndarray:
    """The learning rate of each epoch of the published recipes.

    In the first `warmup_epochs` the rate rises in equal steps from `warmup_rate`
    towards `peak`. From then on, with `t` the number of the epoch,

        rate = floor + (peak - floor) / 2 * (1 + cos(pi * t / epochs))

    The warmup is cut out of the cosine, not put before it: the first rate after it is
    already below `peak`. Last come `cooldown_epochs` at `floor`.

    Example:

    >>> rates = epoch_schedule(4e-3, epochs=300, warmup_epochs=5, cooldown_epochs=10)
    >>> rates.shape
    (310,)
    >>> print(f"{rates[0]:.6f} {rates[1]:.6f} {rates[5]:.6f} {rates[-1]:.6f}")
    0.000001 0.000801 0.003997 0.000010

    Args:
        peak: the highest rate.
        epochs: epochs of the cosine, those of the warmup among them.
        warmup_epochs: epochs of the warmup.
        warmup_rate: rate of the first epoch, where there is a warmup.
        floor: lowest rate of the cosine, and that of the cooldown.
        cooldown_epochs: epochs after the cosine.

    Returns:
        float64 array `(epochs + cooldown_epochs,)`.

    Raises:
        ValueError: if a rate or a number of epochs is out of range.

    Reference:
        - SGDR, https://arxiv.org/abs/1608.03983; `CosineLRScheduler` of timm 1.0.31.
    """
    _check(peak, epochs, warmup_epochs, warmup_rate, floor, cooldown_epochs)
    epoch = np.arange(epochs + cooldown_epochs, dtype="float64")
    warmup = warmup_rate + epoch * ((peak - warmup_rate) / max(1, warmup_epochs))
    cosine = floor + 0.5 * (peak - floor) * (1.0 + np.cos(math.pi * epoch / epochs))
    rates = np.where(epoch < warmup_epochs, warmup, cosine)
    rates[epochs:] = floor
    return rates


def linear_schedule(
    peak: float,
    epochs: int,
    warmup_epochs: int = 0,
    warmup_rate: float = 0.0,
    floor: float = 0.0,
    cooldown_epochs: int = 0,
) -> np.ndarray:
    """As `epoch_schedule`, on straight lines: to `peak` in the warmup, then to `floor`.

    The second line begins where the first one ends; nothing is cut out.

    Returns:
        float64 array `(epochs + cooldown_epochs,)`.
    """
    _check(peak, epochs, warmup_epochs, warmup_rate, floor, cooldown_epochs)
    points = [0, warmup_epochs, epochs] if warmup_epochs else [0, epochs]
    values = [warmup_rate, peak, floor] if warmup_epochs else [peak, floor]
    return np.interp(np.arange(epochs + cooldown_epochs), points, values)


def constant_schedule(rate: float, epochs: int) -> np.ndarray:
    """The same learning rate in each of `epochs` epochs, float64 `(epochs,)`."""
    _check(rate, epochs, 0, rate, rate, 0)
    return np.full(epochs, rate, dtype="float64")


def _check(peak, epochs, warmup_epochs, warmup_rate, floor, cooldown_epochs) -> None:
    for name, value, least in (
        ("epochs", epochs, 1),
        ("warmup_epochs", warmup_epochs, 0),
        ("cooldown_epochs", cooldown_epochs, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ValueError(f"`{name}` must be an integer. Received: {name}={value!r}")
        if value < least:
            raise ValueError(
                f"`{name}` must be at least {least}. Received: {name}={value!r}"
            )
    if warmup_epochs > epochs:
        raise ValueError(
            "`warmup_epochs` must not exceed `epochs`, which the warmup is part of. "
            f"Received: warmup_epochs={warmup_epochs}, epochs={epochs}"
        )
    for name, value in (("peak", peak), ("warmup_rate", warmup_rate), ("floor", floor)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(
                f"`{name}` must be a number of at least 0. Received: {name}={value!r}"
            )


@keras.saving.register_keras_serializable(package="keras_metaformer")
class EpochSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A table of learning rates, one for each epoch, counted in updates.

    `rate(update) = rates[update // updates_per_epoch]`, the last one after the end.
    The optimizers of this package ask for it by the number of updates done, which
    under gradient accumulation is not that of batches.

    Example:

    >>> schedule = EpochSchedule([0.1, 0.2], updates_per_epoch=10)
    >>> print(f"{float(schedule(9)):.1f} {float(schedule(10)):.1f}")
    0.1 0.2

    Args:
        rates: rate of each epoch, such as `epoch_schedule` returns.
        updates_per_epoch: updates of the weights in one epoch.
        interpolate: whether the rate moves at every update, on the line from one
            epoch's rate to the next one's, instead of once an epoch.

    Raises:
        ValueError: if there is no rate, or `updates_per_epoch` is not positive.
    """

    def __init__(
        self, rates: Any, updates_per_epoch: int, interpolate: bool = False
    ) -> None:
        super().__init__()
        table = np.asarray(rates, dtype="float64")
        if table.ndim != 1 or not len(table) or not np.isfinite(table).all():
            raise ValueError(
                "`rates` must be a sequence of numbers, one for each epoch. "
                f"Received: rates={rates!r}"
            )
        if int(updates_per_epoch) != updates_per_epoch or updates_per_epoch < 1:
            raise ValueError(
                "`updates_per_epoch` must be a positive integer. "
                f"Received: updates_per_epoch={updates_per_epoch!r}"
            )
        self.rates = tuple(table.tolist())
        self.updates_per_epoch = int(updates_per_epoch)
        self.interpolate = bool(interpolate)

    def __call__(self, step):
        rates = ops.convert_to_tensor(np.asarray(self.rates, dtype="float32"))
        last = len(self.rates) - 1
        update = ops.cast(ops.convert_to_tensor(step), "int32")
        epoch = update // self.updates_per_epoch
        rate = ops.take(rates, ops.minimum(epoch, last))
        if not self.interpolate:
            return rate
        after = ops.take(rates, ops.minimum(epoch + 1, last))
        done = ops.cast(update % self.updates_per_epoch, "float32")
        return rate + (after - rate) * (done / self.updates_per_epoch)

    def get_config(self):
        return {
            "rates": list(self.rates),
            "updates_per_epoch": self.updates_per_epoch,
            "interpolate": self.interpolate,
        }
