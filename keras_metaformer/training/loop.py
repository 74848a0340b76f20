"""A run of `model.fit` that can be stopped anywhere and goes on bit for bit."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.training.checkpoint import (
    assign_variables,
    callback_state,
    named_variables,
    read_state,
    restore_callback,
    write_state,
)
from keras_metaformer.training.distribution import Agreement, Engine
from keras_metaformer_lite.names import counted


class Batches(Protocol):
    """Training batches whose order is a function of the epoch and the step alone."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Any, ...]]:
        """The batches of an epoch from a step on, as `model.fit` takes them."""
        ...


@dataclasses.dataclass(frozen=True)
class Interval:
    """How often a checkpoint is written: every so many steps, or seconds."""

    steps: int | None = None
    seconds: float | None = None

    def is_due(self, steps: int, seconds: float) -> bool:
        """Whether so many steps or seconds after the last one is late enough."""
        return (self.steps is not None and steps >= self.steps) or (
            self.seconds is not None and seconds >= self.seconds
        )


class TrainingStopped(Exception):
    """A run ended before its last epoch, and can go on.

    Attributes:
        reason: `"SIGINT"`, `"SIGTERM"` or `"time"`.
        epoch: int. The epoch in which it ended, from 0.
        step: int. Steps of that epoch that are done.
    """

    def __init__(self, reason: str, epoch: int, step: int) -> None:
        super().__init__(
            f"Stopped ({reason}) in epoch {epoch + 1} after {counted(step, 'step')}"
        )
        self.reason, self.epoch, self.step = reason, epoch, step


class NonFiniteLossError(ArithmeticError):
    """The loss of a step is infinite or not a number.

    Attributes:
        epoch: int. From 0.
        step: int. Of the epoch, from 0.
    """

    def __init__(self, epoch: int, step: int, loss: float) -> None:
        super().__init__(
            f"The loss is {loss} at epoch {epoch + 1}, step {step + 1} of the epoch"
        )
        self.epoch, self.step, self.loss = epoch, step, loss


class Loop:
    """Trains a compiled model with `model.fit`, with checkpoints.

    `fit` is called once, or twice where a run goes on in the middle of an epoch: for
    what is left of that epoch, and for the epochs after it. The callbacks see one run.

    Args:
        model: compiled, with a loss of targets `(batch, classes)`.
        classifier: what of it is trained: the model itself, or the student of a
            `Distiller`. Its variables are kept.
        batches: the training data.
        epochs: int. Epochs of the whole run.
        path: of the checkpoint. One that is there is gone on from.
        about: gives what the caller keeps in the checkpoint, as JSON can hold it.
        variables: further variables to keep, by the name of their group; those of the
            model, its optimizer and its metrics are known.
        callbacks: Keras callbacks. What they remember is kept (`callback_state`).
        movers: callbacks whose `on_train_batch_end` is called before all others, with
            no logs, so that none of them waits for the step: `AverageWeights`.
        validate: called at the end of an epoch, before the callbacks; what it returns
            is added to their logs. It calls what it is given now and then, so that a
            signal ends it.
        interval: when to write a checkpoint.
        seconds: after so many the run ends with a checkpoint; None for no limit.
        on_step: called after each step with the epoch and the steps done in it.
        engine: that trains; None for one process with one device.
    """

    def __init__(
        self,
        model: keras.Model,
        classifier: keras.Model,
        batches: Batches,
        epochs: int,
        path: Path,
        about: Callable[[], Mapping[str, Any]] = dict,
        variables: Mapping[str, Sequence[keras.Variable]] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        movers: Sequence[keras.callbacks.Callback] = (),
        validate: Callable[[Callable[[], object]], Mapping[str, float]] | None = None,
        interval: Interval | None = None,
        seconds: float | None = None,
        on_step: Callable[[int, int], None] | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.model, self.batches, self.epochs = model, batches, epochs
        self.classifier, self.path = classifier, path
        self.epoch = self.step = 0
        #: One row an epoch: its logs.
        self.history: list[dict[str, float]] = []
        self.finished = False
        self.waited = 0.0
        self._about = about
        self._variables = dict(variables or {})
        self._callbacks, self._movers = list(callbacks), list(movers)
        self._validate, self._on_step = validate, on_step
        self._engine = engine or Engine()
        self._agreement = Agreement(self._engine)
        self._interval = interval or Interval(seconds=600)
        self._seconds = seconds
        self._pending_metrics: dict[str, np.ndarray] | None = None
        self._of_callbacks: dict[str, np.ndarray] = {}
        self._stop_reason: str | None = None
        self._failure: Exception | None = None
        self._loss: Any = None
        self._looks_at_losses = True
        self._until: tuple[int, int] | None = None
        self._begun = self._saved_at = time.monotonic()
        self._steps_since_save = 0

    # What a run is made of

    @property
    def _groups(self) -> dict[str, Sequence[keras.Variable]]:
        return {
            "model": self.classifier.variables,
            "optimizer": self.model.optimizer.variables,
            **self._variables,
        }

    def save(self) -> None:
        """Write the checkpoint of this moment.

        Raises:
            CheckpointError: if it cannot be written; the old one is as it was.
        """
        if keras.backend.backend() == "jax":
            # During `fit` the variables are empty there, and the values in its hands.
            self.model.jax_state_sync()
        arrays: dict[str, np.ndarray | keras.Variable] = {}
        arrays |= named_variables(self._groups)
        # Of several replicas a metric is their sum, for which all processes are asked.
        metrics = named_variables({"metrics": self.model.metrics_variables})
        arrays |= {name: to_numpy(each.value) for name, each in metrics.items()}
        callbacks = []
        for place, callback in enumerate(self._callbacks):
            plain, found = callback_state(callback)
            callbacks.append(plain)
            arrays |= {f"callback/{place} {key}": value for key, value in found.items()}
        about = {
            **self._about(),
            "epoch": self.epoch,
            "step": self.step,
            "finished": self.finished,
            "history": self.history,
            "callbacks": callbacks,
        }
        if self._engine.writes:
            write_state(self.path, arrays, about)
        self._saved_at = time.monotonic()
        self._steps_since_save = 0

    def _load(self) -> dict[str, Any]:
        """Put everything but the callbacks where the checkpoint was written."""
        arrays, about = read_state(self.path)
        assign_variables(self._groups, arrays)
        self.epoch, self.step = about["epoch"], about["step"]
        self._engine.agree_on([self.epoch, self.step], "checkpoint")
        self.finished, self.history = about["finished"], list(about["history"])
        # `fit` sets the metrics to zero when an epoch starts, and the callbacks have
        # not begun yet.
        metrics, self._of_callbacks = (
            {name: each for name, each in arrays.items() if name.startswith(prefix)}
            for prefix in ("metrics/", "callback/")
        )
        self._pending_metrics = metrics if self.step else None
        return about

    # The run

    def run(self) -> None:
        """Trains to the end.

        Raises:
            TrainingStopped: after Ctrl-C, SIGTERM or at the time limit, with a
                checkpoint written.
            NonFiniteLossError: if a loss is not finite. The checkpoint is older.
            CheckpointError: if a checkpoint cannot be written, or is of another run.
        """
        self._build_state()
        state = None
        if self._engine.share(self.path.exists()):
            state = self._load()
            if self.finished:
                return
        self._engine.restored(self.model)
        self._begun = self._saved_at = time.monotonic()
        hooks = self._hooks = _Hooks(self, self._callbacks, self._movers)
        with self._signals():
            hooks.begin()
            if state is None:
                # Now, when a full disk costs nothing yet; and a state before the
                # first step, for a loss that is not finite soon after.
                self.save()
            else:
                self._restore_callbacks(state["callbacks"])
            self._fit()
            self.finished = True
            hooks.end(self.history[-1] if self.history else {})
            self.save()

    def _build_state(self) -> None:
        """Make the variables that a first step would, so that they can be restored."""
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        classes = self.classifier.output_shape[-1]
        outputs = keras.ops.full((1, classes), 1.0 / classes)
        self.model.compute_metrics(None, outputs, outputs)
        self.model.reset_metrics()

    def _restore_callbacks(self, states: list[dict[str, Any]]) -> None:
        for place, callback in enumerate(self._callbacks):
            prefix = f"callback/{place} "
            arrays = {
                name.removeprefix(prefix): value
                for name, value in self._of_callbacks.items()
                if name.startswith(prefix)
            }
            restore_callback(callback, states[place], arrays)
        self._of_callbacks = {}

    def _fit(self) -> None:
        steps = self.batches.steps_per_epoch
        self.model.stop_training = False
        if self.step >= steps:
            # It ended in the validation after the last step.
            self.model.reset_metrics()
            self._hooks.on_epoch_begin(self.epoch)
            self._hooks.on_epoch_end(self.epoch, self.model.get_metrics_result())
        elif self.step:
            self._fit_epochs(self.epoch, self.epoch + 1, self.step)
        if self.epoch < self.epochs and not self.model.stop_training:
            self._fit_epochs(self.epoch, self.epochs, 0)

    def _fit_epochs(self, first: int, end: int, first_step: int) -> None:
        silent: Any = 0
        batches = self._all_batches(first, end, first_step)
        try:
            self.model.fit(
                self._engine.feed(batches),
                initial_epoch=first,
                epochs=end,
                steps_per_epoch=self.batches.steps_per_epoch - first_step,
                shuffle=False,
                callbacks=self._hooks,  # pyright: ignore[reportArgumentType]
                verbose=silent,
            )
        except _errors_of_graphs() as error:
            if self._failure is None:
                raise
            raise self._failure from error
        finally:
            # Another thread may be inside it still, TensorFlow's for one.
            with contextlib.suppress(ValueError):
                batches.close()

    def _all_batches(
        self, first: int, end: int, first_step: int
    ) -> Generator[Any, None, None]:
        for epoch in range(first, end):
            source = iter(self.batches.epoch(epoch, first_step))
            try:
                while True:
                    begun = time.perf_counter()
                    try:
                        batch = next(source, None)
                    except (OSError, ValueError, RuntimeError) as error:
                        self._failure = error
                        raise
                    self.waited += time.perf_counter() - begun
                    if batch is None:
                        break
                    yield batch
            finally:
                close = getattr(source, "close", None)
                if close is not None:
                    close()
            first_step = 0

    # What happens after each step

    def _after_step(self, logs: Mapping[str, Any]) -> None:
        self.step += 1
        self._steps_since_save += 1
        self._look_at_loss()
        self._loss = (self.epoch, self.step - 1, logs.get("loss"))
        if self._on_step is not None:
            self._on_step(self.epoch, self.step)
        if self._until == (self.epoch, self.step):
            raise _Reached
        if self._until is not None:
            return
        elapsed = time.monotonic() - self._saved_at
        due = self._stop_if_asked(self._interval.is_due(0, elapsed))
        if due or self._interval.is_due(self._steps_since_save, 0.0):
            # Not one that holds what must not be gone on from.
            self._look_at_loss()
            self.save()

    def _look_at_loss(self) -> None:
        """Ends the run if the loss of the step before is not finite.

        Of the step before: that of the last one is still being computed, and waiting
        for it would keep a GPU waiting. The logged loss is a mean over the epoch, which
        a value that is not finite stays in.
        """
        if self._loss is None or not self._looks_at_losses:
            return
        epoch, step, loss = self._loss
        self._loss = None
        value = float(to_numpy(loss)) if loss is not None else 0.0
        if not np.isfinite(value):
            raise NonFiniteLossError(epoch, step, value)

    def _stop_if_asked(self, save: bool = False) -> bool:
        """Whether to save; by the clocks and signals of all processes."""
        reason = self._stop_reason
        if reason is None and self._seconds is not None:
            passed = time.monotonic() - self._begun
            reason = "time" if passed >= self._seconds else None
        reason, save = self._agreement.decide(reason, save)
        if reason is not None:
            self._look_at_loss()
            self.save()
            raise TrainingStopped(reason, self.epoch, self.step)
        return save

    def _before_epoch(self) -> None:
        if self._pending_metrics is not None:
            assign_variables(
                {"metrics": self.model.metrics_variables}, self._pending_metrics
            )
            self._pending_metrics = None

    def _after_epoch(self, logs: dict[str, Any]) -> None:
        self._look_at_loss()
        if self._validate is not None and self._until is None:
            logs |= self._validate(self._stop_if_asked)

    def _epoch_is_over(self, logs: Mapping[str, Any]) -> None:
        self.history.append({name: float(value) for name, value in logs.items()})
        self.epoch, self.step = self.epoch + 1, 0

    # Stopping

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the step; a second Ctrl-C at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self._stop_reason is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self._stop_reason = signal.Signals(number).name

        before = {
            number: signal.signal(number, handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def replay(self, epoch: int, step: int) -> None:
        """Goes from the checkpoint to just before a step, to look at it.

        The run is over with this.
        """
        self._build_state()
        self._load()
        self._looks_at_losses = False
        self._until = (epoch, step)
        if (self.epoch, self.step) == self._until:
            return
        hooks = self._hooks = _Hooks(self, (), self._movers)
        hooks.begin()
        with contextlib.suppress(_Reached):
            self._fit()
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()


def _numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: float(to_numpy(value)) for name, value in (logs or {}).items()}


def _errors_of_graphs() -> tuple[type[Exception], ...]:
    """What TensorFlow raises in the place of an error of the batches."""
    if keras.backend.backend() != "tensorflow":
        return ()
    import tensorflow as tf

    return (tf.errors.OpError,)


class _Reached(Exception):
    """The step that was to be replayed to."""


class _Hooks(keras.callbacks.CallbackList):
    """What `fit` calls: the loop, and the callbacks as if `fit` was called once."""

    def __init__(
        self,
        loop: Loop,
        callbacks: Sequence[keras.callbacks.Callback],
        movers: Sequence[keras.callbacks.Callback],
    ) -> None:
        super().__init__(
            list(callbacks),
            add_history=True,
            model=loop.model,
            epochs=loop.epochs,
            steps=loop.batches.steps_per_epoch,
        )
        self._loop, self._movers = loop, movers
        for mover in movers:
            mover.set_model(loop.model)
        self._listens = any(
            getattr(type(callback), name) is not getattr(keras.callbacks.Callback, name)
            for callback in callbacks
            for name in ("on_batch_end", "on_train_batch_end")
        )

    def begin(self) -> None:
        for mover in self._movers:
            mover.on_train_begin()
        super().on_train_begin()

    def end(self, logs: dict[str, Any]) -> None:
        super().on_train_end(logs)

    def on_train_begin(self, logs: Any = None) -> None:
        """Already called, once for all calls of `fit`."""

    def on_train_end(self, logs: Any = None) -> None:
        """Called when the run is over."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._loop._before_epoch()
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        super().on_train_batch_begin(self._loop.step, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        for mover in self._movers:
            mover.on_train_batch_end(self._loop.step)
        # Logs become numbers only for those who look at them: that waits for a GPU.
        if self._listens:
            numbers = _numbers(logs)
            for callback in self.callbacks:
                callback.on_train_batch_end(self._loop.step, numbers)
        self._loop._after_step(logs or {})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = _numbers(logs)
        self._loop._after_epoch(logs)
        super().on_epoch_end(epoch, logs)
        self._loop._epoch_is_over(logs)
