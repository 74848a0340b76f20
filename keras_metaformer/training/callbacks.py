"""What a run writes and says while it trains."""

import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_metaformer.training.evaluation import Evaluation
from keras_metaformer.training.pictures import draw_curves
from keras_metaformer.training.run_folder import RunFolder


class Records(keras.callbacks.Callback):
    """Keeps the log, TensorBoard's events, the curves and the best model.

    Args:
        folder: of the run.
        rates: the learning rate at the start of each epoch.
        save: writes the model as it is, or its averages, to a path.
    """

    def __init__(
        self,
        folder: RunFolder,
        rates: Sequence[float],
        save: Callable[[Any, bool], None],
    ) -> None:
        super().__init__()
        self._folder, self._rates, self._save = folder, rates, save
        self._writer: Any = None
        self.rows: list[dict[str, float]] = []
        #: The best so far by `"raw"` and `"average"`: `accuracy`, `loss`, `epoch`.
        self.best: dict[str, dict[str, float]] = {}

    def get_state(self) -> dict[str, Any]:
        return {"rows": self.rows, "best": self.best}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.rows, self.best = list(state["rows"]), dict(state["best"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        row = {"epoch": epoch + 1, "learning_rate": float(self._rates[epoch])}
        # Keras sorts them by name.
        row |= {name: logs[name] for name in ("loss", "accuracy")} | logs
        self.rows.append(row)
        for name, prefix in (("raw", "val_"), ("average", "average_val_")):
            if f"{prefix}accuracy" in logs:
                self._keep_best(name, epoch, logs, prefix)
        self._folder.write_log(self.rows)
        self._write_events(row)
        draw_curves(self.rows, self._folder.path / "curves.png")

    def _keep_best(
        self, name: str, epoch: int, logs: Mapping[str, float], prefix: str
    ) -> None:
        found = {key: logs[prefix + key] for key in ("accuracy", "loss")}
        best = self.best.get(name)
        if best is not None and (found["accuracy"], -found["loss"]) <= (
            best["accuracy"],
            -best["loss"],
        ):
            return
        averaged = name == "average"
        self._save(self._folder.model("best", averaged), averaged)
        self.best[name] = {**found, "epoch": epoch + 1}

    def _write_events(self, row: Mapping[str, float]) -> None:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # What a killed run wrote of this epoch and of later ones is not shown.
            self._writer = SummaryWriter(
                os.fspath(self._folder.tensorboard), purge_step=int(row["epoch"])
            )
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """Closes what is open."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Progress:
    """Says how far a run is: one line an epoch, and a line in motion in a terminal.

    Args:
        say: called with each whole line.
        epochs: int. Of the run.
        steps: int. Of an epoch.
        batch_size: int.
        waited: gives the seconds that were spent waiting for images so far.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        epochs: int,
        steps: int,
        batch_size: int,
        waited: Callable[[], float],
    ) -> None:
        self._say, self._waited = say, waited
        self._epochs, self._steps, self._batch_size = epochs, steps, batch_size
        self._moving = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._start: float | None = None
        self._first: tuple[int, int] = (0, 0)
        self._seconds: list[float] = []

    def on_step(self, epoch: int, step: int) -> None:
        """After each step of the model; the first one of a run compiles."""
        now = time.monotonic()
        if self._start is None or self._first[0] != epoch:
            self._start, self._first = now, (epoch, step)
            self._waited_before = self._waited()
            return
        # In a terminal often; in a log file seldom.
        if now - self._shown < (0.5 if self._moving else 60):
            return
        self._shown = now
        text = f"epoch {epoch + 1}/{self._epochs}  step {step}/{self._steps}  "
        text += self._rates(step, now)
        if self._moving:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        else:
            self._say(text)

    def _rates(self, step: int, now: float) -> str:
        assert self._start is not None
        steps, seconds = step - self._first[1], now - self._start
        if not steps or not seconds:
            return ""
        waited = self._waited() - self._waited_before
        model = steps * self._batch_size / max(seconds - waited, 1e-9)
        left = (self._epochs - self._first[0]) * self._steps - step
        return (
            f"{steps * self._batch_size / seconds:.4g} images/s "
            f"(the model alone {model:.4g}, {waited / seconds:.0%} of the time "
            f"waiting for images)  {duration(left * seconds / steps)} left"
        )

    def on_epoch_end(
        self, epoch: int, logs: Mapping[str, float], began: float, step: int
    ) -> None:
        """Say the epoch's line."""
        now = time.monotonic()
        rates = self._rates(step, now) if self._start is not None else ""
        if self._moving:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
        parts = [
            f"epoch {epoch + 1}/{self._epochs}",
            f"loss {logs['loss']:.4f}",
            f"accuracy {logs['accuracy']:.2%}" if "accuracy" in logs else "",
        ]
        for prefix, name in (("val_", "validation"), ("average_val_", "averaged")):
            if f"{prefix}accuracy" in logs:
                parts.append(f"{name} {logs[f'{prefix}accuracy']:.2%}")
        parts += [rates, memory(), duration(now - began)]
        self._say("  ".join(part for part in parts if part))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    seconds = max(0, math.ceil(seconds))
    if seconds < 100:
        return f"{seconds} s"
    minutes = seconds // 60
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def memory() -> str:
    """The most memory that this process has taken so far, in words."""
    peak, where = peak_bytes()
    return f"{peak / 1e9:.1f} GB{where}" if peak else ""


def peak_bytes() -> tuple[int, str]:
    """The most memory taken so far, in bytes, and of what: the device, or all."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated(), " on the GPU"
    elif backend == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            return stats["peak_bytes_in_use"], " on the device"
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            info = tf.config.experimental.get_memory_info("GPU:0")
            return info["peak"], " on the GPU"
    try:
        import resource
    except ImportError:  # on Windows
        return 0, ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In kilobytes, but on macOS in bytes.
    return peak * (1 if sys.platform == "darwin" else 1024), ""


def give_back_freed_memory() -> None:
    """Have the C library hand freed memory back to the system, where it is glibc.

    What an epoch's validation, models and pictures took is free afterwards, but in
    pieces between others that are not, where the maps of the next epoch do not fit.

    Seen with: glibc 2.36.
    Gain: ConvFormerS18, batches of 8, on torch: from 1.11 of a bare step's memory to
    1.07.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The numbers of an evaluation that go into the log."""
    return {
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "top5_accuracy": evaluation.top5_accuracy,
        "calibration_error": evaluation.calibration_error,
    }
