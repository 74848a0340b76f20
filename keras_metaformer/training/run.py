"""From a folder of photographs to a model that every other command takes."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.models.pyramid_model import description_of
from keras_metaformer.training import models
from keras_metaformer.training.averaging import AverageWeights, WeightAverage
from keras_metaformer.training.callbacks import Progress, Records, summary
from keras_metaformer.training.checkpoint import read_about
from keras_metaformer.training.diagnosis import explain
from keras_metaformer.training.distribution import Engine, start
from keras_metaformer.training.evaluation import Counter, Evaluation
from keras_metaformer.training.loop import (
    Interval,
    Loop,
    NonFiniteLossError,
    TrainingStopped,
)
from keras_metaformer.training.memory import give_back_freed_memory
from keras_metaformer.training.pictures import (
    draw_batch,
    draw_confusions,
    draw_mistakes,
)
from keras_metaformer.training.recipe import (
    Recipe,
    build_loss,
    build_optimizer,
    load_recipe,
    wrap_for_training,
)
from keras_metaformer.training.run_folder import (
    RunFolder,
    check_same,
    environment,
    write_table,
)
from keras_metaformer_lite.data.augmentation import Augmentation
from keras_metaformer_lite.data.batches import EvaluationBatches, TrainingBatches
from keras_metaformer_lite.data.checks import SourceReport, check_sources
from keras_metaformer_lite.data.sources import Source, open_source, split_source
from keras_metaformer_lite.names import counted
from keras_metaformer_lite.weights import catalogue

DEFAULT_MODEL = "CAFormerS18"
DEFAULT_RECIPE = "finetune"
#: Part of the data that is held out where no validation data is given.
HELD_OUT = 0.2
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class TrainingDiverged(ArithmeticError):
    """A loss was not finite; the message says where and what may help."""


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        folder: of the run; `km.evaluate`, `km.predict` and the commands take it.
        finished: bool. Whether all epochs are done.
        message: how to go on, where they are not.
        reason: why it ended, where they are not: `"SIGINT"`, `"SIGTERM"`, `"time"`.
        history: a row of numbers an epoch.
        accuracy: float. Of the best model on the validation data, where the run is
            finished.
        evaluation: likewise all of it, where this call finished the run; of several
            processes in the first one alone.
        process: int. Which of several processes this one is.
    """

    folder: Path
    finished: bool
    message: str
    reason: str
    history: list[dict[str, float]]
    accuracy: float | None = None
    evaluation: Evaluation | None = None
    process: int = 0

    def load_model(self) -> keras.Model:
        """The best model: float32, from images to probabilities."""
        model: Any = keras.saving.load_model(RunFolder(self.folder).best_model())
        return model


def train(
    data: Any,
    model: str | os.PathLike | keras.Model | None = None,
    *,
    output: str | os.PathLike = "run",
    validation: Any = None,
    held_out: float = HELD_OUT,
    split: str | None = None,
    validation_split: str | None = None,
    recipe: str | os.PathLike | Recipe = DEFAULT_RECIPE,
    weights: str | os.PathLike | None = "recipe",
    overrides: Mapping[str, Any] | None = None,
    teacher: str | os.PathLike | keras.Model | None = None,
    dtype: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    check_images: bool = True,
    checkpoint_every: str | int = "10m",
    time_limit: str | float | None = None,
    deterministic: bool = False,
    devices: int | None = None,
    distributed: bool = False,
    model_parallel: int = 1,
    dry_run: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    say: Callable[[str], None] = print,
) -> TrainingResult:
    """Trains an image classifier, or goes on with a run that was interrupted.

    The same call again goes on where the last checkpoint in `output` was written; with
    other settings it is an error that shows the difference. The result is bit for bit
    that of a run that was not interrupted, wherever the backend is deterministic.

    Example:

    >>> import keras_metaformer as km
    >>> result = km.train("photos/", "CAFormerS18")  # doctest: +SKIP
    >>> result.accuracy  # doctest: +SKIP
    0.97

    Args:
        data: what `keras_metaformer.data.open_source` takes: a folder with a folder of
            images for each class, a table of paths and labels, `"tfds:NAME"`, arrays
            `(images, labels)`, or a source.
        model: a constructor's name, a `.keras` file, the folder of a run, or a
            functional model; None for the recipe's, or CAFormerS18.
        output: folder of the run, which is made.
        validation: data as `data`; None to hold out a part of `data`.
        held_out: that part, between 0 and 1, of every class.
        split: of `data`, for TensorFlow Datasets.
        validation_split: likewise of the validation data, which is then `data` itself
            where `validation` is None.
        recipe: a name of `km.training.list_recipes()`, a `.toml` file, or a `Recipe`.
        weights: that a constructor's model starts from: a tag, a file, None for none,
            or `"recipe"` for the recipe's own.
        overrides: fields of the recipe, such as `{"epochs": 10}`. A `batch_size` of
            `"auto"` is measured: the one with the most images a second that fits.
        teacher: of recipes that distil: a constructor's name, a `.keras` file or a
            model.
        dtype: `"float32"`, `"bfloat16"` (weights stay float32), or None for bfloat16
            where the device multiplies in it.
        seed: of all that is random.
        workers: processes that prepare images; None for one for each core but one. The
            result is the same with any number.
        check_images: bool. Whether every image is read before a run begins, for those
            that cannot be read and those that are in both parts. Without it an image
            that cannot be read ends the run when its turn comes.
        checkpoint_every: steps as an int, or a time such as `"10m"`.
        time_limit: after which the run ends with a checkpoint, such as `"2h"` or
            seconds; the same call goes on.
        deterministic: bool. Whether TensorFlow and torch are told to use deterministic
            operations alone, which may be slower. On a CPU they are anyway.
        devices: of this process to train on, together; None for one. The recipe's
            batch is divided among them. With PyTorch each has a process of its own:
            see `distributed`.
        distributed: bool. Whether this is one of several processes that train one
            model, each with the same call, the same data and the same `output`, which
            must be a folder that all of them see. A launcher starts them and says who
            is who: `torchrun` for PyTorch, TF_CONFIG for TensorFlow (experimental);
            JAX knows SLURM, Open MPI, Kubernetes and Cloud TPU, or takes Keras'
            variables (KERAS_DISTRIBUTION_JOB_ADDRESSES, ..._NUM_PROCESSES,
            ..._PROCESS_ID).
        model_parallel: over how many of the `devices` each large weight is spread, with
            JAX.
        dry_run: bool. Whether one batch is to go through everything, and no more.
        callbacks: further Keras callbacks. What they remember goes into the checkpoint.
        say: called with each line of progress.

    Returns:
        How the run ended.

    Raises:
        DataError: if the data cannot be trained on.
        ValueError: if an argument is out of its range, or `output` has a run of another
            configuration (`ConfigurationError`).
        CheckpointError: if the checkpoint cannot be written or read.
        TrainingDiverged: if a loss is not finite.
        ProcessLost: if another process of the run has ended.
    """
    interval = parse_interval(checkpoint_every)
    seconds = None if time_limit is None else parse_seconds(time_limit)
    # Before anything else: JAX joins other processes only before its first array.
    engine = start(devices, distributed, model_parallel)
    if not engine.writes:
        say = _silent
    policy = models.default_policy(dtype)
    with engine.running(), _shared_folder(Path(output), dry_run, engine) as folder:
        about = None
        if engine.writes and folder.checkpoint.is_file():
            about = read_about(folder.checkpoint)
        about = engine.share(about)
        if model is not None and not isinstance(model, keras.Model):
            model = _file_or_name(model)
        given = dict(overrides or {})
        automatic = given.get("batch_size") == "auto"
        if automatic:
            if engine.replicas > 1:
                raise ValueError(
                    "The batch size is measured on one device: give the whole batch as "
                    f"a number for {engine.replicas}. Received: batch_size='auto'"
                )
            given.pop("batch_size")
            if about is not None:
                given["batch_size"] = about["config"]["recipe"]["batch_size"]
        asked, recipe = recipe, _resolved(recipe, model, given)
        if recipe.batch_size % engine.replicas:
            raise ValueError(
                f"The batch must be a multiple of the {engine.replicas} parts that it "
                f"is computed in. Received: batch_size={recipe.batch_size}"
            )
        model = model or recipe.model or DEFAULT_MODEL

        parts = _open_parts(data, validation, held_out, split, validation_split, seed)
        report = _checked_once(parts, about, check_images, workers, folder, say, engine)
        training, held = report.training, report.validation
        assert held is not None
        if not (automatic or given.keys() & {"batch_size", "accumulate"}):
            smaller = _for_few_images(recipe, len(training), engine.replicas)
            if smaller and not isinstance(asked, Recipe):
                say(
                    f"Batches of {smaller['batch_size']} images, not of the recipe's "
                    f"{recipe.update_size}: there are {len(training)} to train on"
                )
                given |= smaller
                recipe = _resolved(asked, model, given)
        # An error where there are too few images.
        recipe.updates_per_epoch(len(training))
        tag = _weights(weights, recipe, model)
        if automatic and about is None:
            from keras_metaformer.training.batch_probe import best_batch_size

            size = best_batch_size(model, recipe, policy, len(training), say)
            recipe = _resolved(asked, model, {**given, "batch_size": size})
        config = {
            "model": _identity(model),
            "weights": None if tag is None else _identity(tag),
            "recipe": recipe.to_dict(),
            "teacher": None if teacher is None else _identity(teacher),
            "seed": seed,
            "dtype": policy,
            "backend": keras.backend.backend(),
            "deterministic": deterministic,
            "training_data": _data_identity(training),
            "validation_data": _data_identity(held),
        }
        engine.agree_on(config, "configuration")
        if about is not None:
            check_same(about["config"], config, folder.path)
            # Written last of all: a run may have been killed after its last epoch.
            if about["finished"] and (folder.path / "evaluation.json").is_file():
                return _finished(folder, about, say)
        if deterministic:
            _ask_for_determinism()

        names = training.class_names
        with engine.scope():
            classifier = models.start_model(
                model, recipe, names, weights=tag, dtype=policy, seed=seed
            )
            run = _Run(folder, recipe, classifier, training, held, config, say, engine)
            run.unreadable = [list(pair) for pair in report.unreadable]
            if engine.writes:
                folder.write_json("config.json", config)
                folder.write_json("environment.json", environment())
            return run.train(
                teacher=teacher,
                seed=seed,
                workers=workers,
                interval=interval,
                seconds=seconds,
                callbacks=callbacks,
                dry_run=dry_run,
            )


def _silent(text: str) -> None:
    """What the processes say that write nothing."""


def _finished(
    folder: RunFolder, about: Mapping[str, Any], say: Callable[[str], None]
) -> TrainingResult:
    say(
        f"The run in {folder.path} is finished: its best model is {folder.best_model()}"
    )
    found = json.loads((folder.path / "evaluation.json").read_text("utf-8"))
    return TrainingResult(
        folder.path, True, "", "", list(about["history"]), found["accuracy"]
    )


class _Run:
    """One run: its model, data and folder."""

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        classifier: Any,
        training: Source,
        held: Source,
        config: dict[str, Any],
        say: Callable[[str], None],
        engine: Engine,
    ) -> None:
        self.engine = engine
        self.folder, self.recipe, self.classifier = folder, recipe, classifier
        self.training, self.held, self.config, self.say = training, held, config, say
        self.unreadable: list[list[str]] = []

    def train(
        self,
        *,
        teacher: Any,
        seed: int,
        workers: int | None,
        interval: Interval,
        seconds: float | None,
        callbacks: Sequence[keras.callbacks.Callback],
        dry_run: bool,
    ) -> TrainingResult:
        recipe, classifier, engine = self.recipe, self.classifier, self.engine
        description = description_of(classifier)
        assert description is not None
        if recipe.freeze == "backbone":
            models.freeze_all_but_classifier(classifier)
        source = self.training
        if recipe.repeated_augmentation > 1:
            each = np.arange(len(source))
            source = source.subset(np.repeat(each, recipe.repeated_augmentation))
        held = self.held
        if dry_run:
            held = held.subset(range(min(len(held), recipe.batch_size)))
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(
                TrainingBatches(
                    source,
                    description,
                    augmentation_of(recipe),
                    recipe.batch_size,
                    seed,
                    workers,
                    engine.part,
                )
            )
            checks = stack.enter_context(
                EvaluationBatches(
                    held, description, recipe.batch_size, workers, engine.part
                )
            )
            updates = recipe.updates_per_epoch(len(self.training))
            steps = recipe.accumulate * (1 if dry_run else updates)
            epochs = 1 if dry_run else recipe.total_epochs
            trained = stack.enter_context(models.giving_logits(classifier))
            optimizer = build_optimizer(recipe, trained, updates)
            fitted = engine.wrap(
                wrap_for_training(recipe, trained, self._teacher(teacher, description))
            )
            fitted.compile(optimizer, build_loss(recipe, trained), metrics=["accuracy"])
            average = None
            if recipe.average_decay is not None:
                average = WeightAverage(trained, recipe.average_decay)

            def save(path: Path, averaged: bool) -> None:
                applied = average.applied() if averaged and average else _nothing()
                with applied, engine.alone():
                    models.save_deployed(classifier, path)

            records = Records(self.folder, recipe.learning_rates().tolist(), save)
            stack.callback(records.close)
            kept = records if engine.writes else _Elsewhere(records)
            whole = _WholeUpdates(batches, steps)
            progress = Progress(
                self.say, epochs, steps, recipe.batch_size, lambda: loop.waited
            )
            began = time.monotonic()

            def validate(stop_if_asked: Callable[[], object]) -> dict[str, float]:
                nonlocal began
                logs: dict[str, float] = {}
                for prefix in ("val_", "average_val_") if average else ("val_",):
                    averaged = average if prefix != "val_" else None
                    with averaged.applied() if averaged else _nothing():
                        found = _counted(
                            lambda images: engine.probabilities(trained, images),
                            checks,
                            stop_if_asked,
                        )
                    logs |= {prefix + key: each for key, each in summary(found).items()}
                return logs

            class Lines(keras.callbacks.Callback):
                """Says the epoch's line once its row is written."""

                def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                    nonlocal began
                    began = time.monotonic()

                def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                    progress.on_epoch_end(epoch, logs or {}, began, steps)
                    give_back_freed_memory()

            loop = Loop(
                fitted,
                trained,
                whole,
                epochs,
                self.folder.checkpoint,
                about=lambda: {
                    "config": self.config,
                    "best": records.best,
                    "unreadable": self.unreadable,
                },
                variables={"average": average.variables} if average else {},
                movers=[AverageWeights(average)] if average else (),
                callbacks=[kept, Lines(), *callbacks],
                validate=validate,
                interval=interval,
                seconds=seconds,
                on_step=progress.on_step if engine.writes else None,
                engine=engine,
            )
            self._introduce(optimizer, steps, epochs, description)
            if dry_run and engine.writes:
                self._draw_batch(batches, description)
            try:
                loop.run()
            except TrainingStopped as stopped:
                return self._stopped(stopped, loop, epochs, steps)
            except NonFiniteLossError as error:
                self._diverged(error, loop, batches)
            if engine.writes:
                save(self.folder.model("last"), False)
                if average:
                    save(self.folder.model("last", averaged=True), True)
        with engine.alone():
            result = self._finish(loop, workers, dry_run) if engine.writes else None
        accuracy = engine.share(None if result is None else result.accuracy)
        return result or TrainingResult(
            self.folder.path,
            True,
            "",
            "",
            list(loop.history),
            accuracy,
            process=engine.process,
        )

    def _introduce(
        self, optimizer: Any, steps: int, epochs: int, description: Any
    ) -> None:
        recipe = self.recipe
        trainable = sum(int(np.prod(v.shape)) for v in optimizer_variables(optimizer))
        size = description.transform.resolution
        self.say(
            f"{self.classifier.name}: {self.classifier.count_params():,} parameters, "
            f"{trainable:,} of them trained, in {self.config['dtype']} on "
            f"{models.device_name()} ({self.config['backend']}); images of {size} x "
            f"{size} pixels"
            + (f"; {self.engine.describe()}" if self.engine.describe() else "")
        )
        groups = optimizer.parameter_groups
        for decay in dict.fromkeys(group.weight_decay for group in groups):
            chosen = [group for group in groups if group.weight_decay == decay]
            scales = [group.rate_scale for group in chosen]
            lowest = f" down to {min(scales):.3g}" * (min(scales) < max(scales))
            self.say(
                f"  {sum(group.parameters for group in chosen):,} parameters with "
                f"weight decay {decay:g}, at {max(scales):g}{lowest} of the "
                "learning rate"
            )
        self.say(
            f"{counted(epochs, 'epoch')} of {counted(steps, 'step')} with "
            f"{counted(recipe.batch_size, 'image')}"
            + (f", {recipe.accumulate} steps an update" * (recipe.accumulate > 1))
            + f"; recipe {recipe.name}, peak learning rate {recipe.learning_rate:.3g}"
        )

    def _teacher(self, teacher: Any, description: Any) -> Any:
        if teacher is None:
            return None
        size = description.transform.resolution
        if isinstance(teacher, str) and not teacher.endswith(".keras"):
            from keras_metaformer.models import families

            return families.get(teacher).constructor(
                include_preprocessing=description.includes_preprocessing,
                input_shape=(size, size, 3),
                dtype=self.config["dtype"],
            )
        model: Any = teacher
        if not isinstance(teacher, keras.Model):
            model = keras.saving.load_model(teacher, compile=False)
        told = description_of(model)
        other = told is not None and (
            told.includes_preprocessing != description.includes_preprocessing
        )
        if other or model.input_shape[1:] != (size, size, 3):
            raise ValueError(
                "The teacher must take the student's images: "
                f"{(size, size, 3)}, "
                f"{'pixels' if description.includes_preprocessing else 'normalised'}. "
                f"Received: a teacher of {model.input_shape[1:]}"
            )
        return model

    def _draw_batch(self, batches: TrainingBatches, description: Any) -> None:
        began = time.monotonic()
        images, targets = next(batches.epoch(0))
        passed = time.monotonic() - began
        transform, pixels = description.transform, description.includes_preprocessing
        path = self.folder.path / "augmented.png"
        draw_batch(
            images,
            targets,
            self.training.class_names,
            (0.0,) * 3 if pixels else transform.mean,
            (1 / 255,) * 3 if pixels else transform.std,
            path,
        )
        self.say(
            f"{len(images) / passed:.4g} training images a second are prepared, the "
            f"start of the processes included; the first batch is in {path}"
        )

    def _stopped(
        self, stopped: TrainingStopped, loop: Loop, epochs: int, steps: int
    ) -> TrainingResult:
        reason = {"time": "the time is up"}.get(stopped.reason, stopped.reason)
        message = (
            f"Stopped ({reason}) in epoch {stopped.epoch + 1} of {epochs} after "
            f"{stopped.step} of {steps} steps. All of it is in "
            f"{self.folder.checkpoint}: the same command goes on from there."
        )
        self.say(message)
        return TrainingResult(
            self.folder.path,
            False,
            message,
            stopped.reason,
            list(loop.history),
            process=self.engine.process,
        )

    def _diverged(
        self, error: NonFiniteLossError, loop: Loop, batches: TrainingBatches
    ) -> None:
        if self.engine.replicas > 1:
            found = "One process with one device, with the same command, says where."
        else:
            self.say(f"{error}. Going there again from the checkpoint, to see where.")
            found = explain(loop, batches, error)
        raise TrainingDiverged(
            f"{error}. {found} The last good state is in {self.folder.checkpoint}."
        ) from error

    def _finish(self, loop: Loop, workers: int | None, dry_run: bool) -> TrainingResult:
        from keras_metaformer.training.classifiers import open_classifier

        path = self.folder.best_model()
        classifier = open_classifier(path)
        held = self.held
        if dry_run:
            held = held.subset(range(min(len(held), self.recipe.batch_size)))
        with EvaluationBatches(
            held, classifier.description, self.recipe.batch_size, workers
        ) as checks:
            evaluation = _counted(classifier.probabilities, checks, lambda: None)
        draw_confusions(evaluation, self.folder.path / "confusions.png")
        draw_mistakes(evaluation, held, self.folder.path / "mistakes.png")
        self.folder.write_json(
            "evaluation.json", {"model": path.name, **evaluation.to_dict()}
        )
        self.say(
            f"{path}: {evaluation.top1} of {evaluation.images} validation images right "
            f"({evaluation.accuracy:.2%}; {evaluation.top5_accuracy:.2%} in five), "
            f"calibration error {evaluation.calibration_error:.3f}"
        )
        if dry_run:
            self.say(f"Everything works. What it wrote is in {self.folder.path}.")
        return TrainingResult(
            self.folder.path,
            True,
            "",
            "",
            list(loop.history),
            evaluation.accuracy,
            evaluation,
        )


class _WholeUpdates:
    """The batches of an epoch up to the last whole update."""

    def __init__(self, batches: TrainingBatches, steps: int) -> None:
        self._batches, self.steps_per_epoch = batches, steps

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Any, ...]]:
        source = self._batches.epoch(epoch, start_step)
        try:
            yield from itertools.islice(source, self.steps_per_epoch - start_step)
        finally:
            source.close()  # pyright: ignore[reportAttributeAccessIssue]


class _Elsewhere(keras.callbacks.Callback):
    """Stands for the records in the processes that write none."""

    def __init__(self, records: Records) -> None:
        super().__init__()
        self.get_state, self.set_state = records.get_state, records.set_state


def _counted(
    probabilities: Callable[[np.ndarray], np.ndarray],
    checks: EvaluationBatches,
    stop_if_asked: Callable[[], object],
) -> Evaluation:
    counter = Counter(checks.source.class_names)
    for images, labels, mask in checks:
        stop_if_asked()
        counter.add(probabilities(images), labels, mask)
    return counter.result()


def optimizer_variables(optimizer: Any) -> list[Any]:
    """The variables that an optimizer trains."""
    return list(getattr(optimizer, "_trainable_variables", ()))


def augmentation_of(recipe: Recipe) -> Augmentation:
    """What a recipe does to its images.

    Raises:
        ValueError: for a way of erasing that is not built.
    """
    if recipe.random_erasing and (
        recipe.random_erasing_mode != "pixel" or recipe.random_erasing_count != 1
    ):
        raise ValueError(
            "Random erasing fills one rectangle with noise for each pixel. Received: "
            f"random_erasing_mode={recipe.random_erasing_mode!r}, "
            f"random_erasing_count={recipe.random_erasing_count}"
        )
    return Augmentation(
        crop_scale=recipe.random_resized_crop_scale,
        crop_ratio=recipe.random_resized_crop_ratio,
        horizontal_flip=recipe.horizontal_flip,
        interpolation=recipe.interpolation,
        rand_augment=recipe.rand_augment,
        color_jitter=recipe.color_jitter,
        random_erasing=recipe.random_erasing,
        mixup=recipe.mixup_alpha,
        cutmix=recipe.cutmix_alpha,
        mix_probability=recipe.mixup_probability,
        cutmix_probability=recipe.mixup_switch_probability,
        label_smoothing=recipe.label_smoothing,
    )


# What a run is asked to be


def _resolved(recipe: Any, model: Any, overrides: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        if overrides:
            raise ValueError(
                "A `Recipe` is resolved already: give its name for overrides. "
                f"Received: overrides={dict(overrides)}"
            )
        return recipe
    named = isinstance(model, str) and not model.endswith(".keras")
    return load_recipe(recipe, model if named else None, overrides)


def _for_few_images(recipe: Recipe, images: int, multiple: int) -> dict[str, Any]:
    """Fields for two updates in an epoch and more, where one takes more than there are.

    Args:
        recipe: as it is without them.
        images: int. To train on.
        multiple: int. The batch is a multiple of it.
    """
    if images >= recipe.update_size:
        return {}
    size = 1 << max(0, (images // 2).bit_length() - 1)
    size -= size % multiple
    return {"batch_size": size, "accumulate": 1} if size else {}


def _file_or_name(model: str | os.PathLike) -> str:
    """A constructor's name, or the path of a `.keras` file, also of a run folder's."""
    path = Path(model)
    if path.is_dir():
        return str(RunFolder(path).best_model())
    return os.fspath(model)


@contextlib.contextmanager
def _shared_folder(path: Path, dry_run: bool, engine: Engine) -> Iterator[RunFolder]:
    """The folder of the run, which the process that writes makes and takes."""
    if engine.writes:
        folder = _made_folder(path, dry_run)
        with folder.taken():
            engine.agree_on("", "folder")
            yield folder
        return
    engine.agree_on("", "folder")
    folder = RunFolder(path / "dry_run" if dry_run else path)
    if not folder.path.is_dir():
        raise ValueError(
            "Expected a folder that all processes of the run see, on a shared file "
            f"system; this one sees none. Received: output={str(path)!r}"
        )
    yield folder


def _made_folder(path: Path, dry_run: bool) -> RunFolder:
    if dry_run:
        path = path / "dry_run"
        if path.is_dir():
            shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Expected a folder for the run: {error}. Received: output={str(path)!r}"
        ) from error
    folder = RunFolder(path)
    others = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
    ours = {"config.json", "environment.json", "unreadable.csv", "dry_run"}
    if not folder.checkpoint.is_file() and set(others) - ours:
        raise ValueError(
            "Expected a new folder, an empty one, or that of a run; this one holds "
            f"{', '.join(sorted(others)[:5])}. Received: output={str(path)!r}"
        )
    return folder


def _open_parts(
    data: Any,
    validation: Any,
    held_out: float,
    split: str | None,
    validation_split: str | None,
    seed: int,
) -> tuple[Source, Source]:
    if validation is None and validation_split is None:
        found = _parts_of_folder(data) if split is None else None
        if found is None:
            return split_source(open_source(data, split=split), held_out, seed)
        data, validation = found
    training = open_source(data, split=split)
    held = open_source(
        data if validation is None else validation,
        split=validation_split,
        class_names=training.class_names,
    )
    return training, held


def _parts_of_folder(data: Any) -> tuple[Path, Path] | None:
    """The parts of a folder that has one for training and one to validate with."""
    if not isinstance(data, (str, os.PathLike)) or not Path(data).is_dir():
        return None
    folders = {
        each.name.lower(): each for each in Path(data).iterdir() if each.is_dir()
    }
    training = [folders[name] for name in ("train", "training") if name in folders]
    held = [
        folders[name]
        for name in ("validation", "valid", "val", "test")
        if name in folders
    ]
    return (training[0], held[0]) if training and held else None


def _checked_once(
    parts: tuple[Source, Source],
    about: Mapping[str, Any] | None,
    check_images: bool,
    workers: int | None,
    folder: RunFolder,
    say: Callable[[str], None],
    engine: Engine,
) -> SourceReport:
    """As `_checked`, of which one process reads all images for all."""
    report = None
    if engine.writes:
        report = _checked(parts, about, check_images, workers, folder, say)
    unreadable = engine.share(None if report is None else report.unreadable)
    if report is not None:
        return report
    return _checked(
        parts, {"unreadable": unreadable}, check_images, workers, folder, say
    )


def _checked(
    parts: tuple[Source, Source],
    about: Mapping[str, Any] | None,
    check_images: bool,
    workers: int | None,
    folder: RunFolder,
    say: Callable[[str], None],
) -> SourceReport:
    """The data without what cannot be read, and what is to be said of it.

    A run that goes on does not read all images again.
    """
    training, held = parts
    if about is not None:
        lost = {name for name, _ in about["unreadable"]}
        training, held = (_without(source, lost) for source in (training, held))
        report = check_sources(training, held, read_images=False)
        return dataclasses.replace(
            report, unreadable=[tuple(pair) for pair in about["unreadable"]]
        )
    report = check_sources(training, held, read_images=check_images, workers=workers)
    assert report.validation is not None
    counts = report.training.counts()
    say(
        f"{len(report.training):,} training and {len(report.validation):,} validation "
        f"images of {len(counts)} classes, {counts.min():,} to {counts.max():,} each"
    )
    for warning in report.warnings:
        say(f"Warning: {warning}")
    if report.unreadable:
        path = folder.path / "unreadable.csv"
        write_table(
            path,
            [{"image": name, "reason": reason} for name, reason in report.unreadable],
        )
        say(f"They are listed in {path}")
    return report


def _without(source: Source, lost: set[str]) -> Source:
    if not lost:
        return source
    kept = [place for place in range(len(source)) if source.name(place) not in lost]
    return source if len(kept) == len(source) else source.subset(kept)


def _weights(weights: Any, recipe: Recipe, model: Any) -> Any:
    """The tag or file that a constructor's model starts from, or None."""
    if isinstance(model, keras.Model) or str(model).endswith(".keras"):
        if weights not in ("recipe", None):
            raise ValueError(
                "`weights` are for a model that is given by its constructor's name. "
                f"Received: weights={weights!r}, model={_identity(model)}"
            )
        return None
    if weights != "recipe":
        return weights
    tag = recipe.weights
    if tag is not None and tag not in catalogue.list_weights(model):
        tag = catalogue.default_tag(model)
    return tag


def _identity(thing: Any) -> str:
    """What tells a model or file from another: its name, with a hash of its content."""
    if isinstance(thing, keras.Model):
        return f"{type(thing).__name__} {thing.name}"
    path = Path(thing)
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{path.name} sha256:{digest[:16]}"
    return os.fspath(thing)


def _data_identity(source: Source) -> dict[str, Any]:
    """What tells data from other data: names and labels, not the images themselves."""
    digest = hashlib.sha256()
    for place, label in enumerate(source.labels):
        name = Path(source.name(place))
        # Without the folders above: data may move.
        digest.update(f"{label} {'/'.join(name.parts[-2:])}\n".encode())
    return {
        "images": len(source),
        "classes": list(source.class_names),
        "names_and_labels": digest.hexdigest()[:16],
    }


def _ask_for_determinism() -> None:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "torch":
        import torch

        torch.use_deterministic_algorithms(True)


def parse_seconds(text: str | float) -> float:
    """Seconds of `"2h"`, `"90 min"`, `"1h 30m"`, or of a number of them.

    Raises:
        ValueError: if it is none of these, or not positive.
    """
    received = f"Received: {text!r}"
    if isinstance(text, (int, float)):
        seconds = float(text)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*", text.strip().lower())
        whole = "".join(f"{number}{unit}" for number, unit in parts)
        if not parts or whole != re.sub(r"\s", "", text.lower()):
            raise ValueError(
                f"Expected a time such as '2h', '30m' or '45s'. {received}"
            )
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not seconds > 0:
        raise ValueError(f"Expected a positive time. {received}")
    return seconds


def parse_interval(value: str | int) -> Interval:
    """An interval of `"10m"` (a time), or `500` (steps).

    Raises:
        ValueError: if it is neither, or not positive.
    """
    text = str(value).strip()
    if text.isdecimal():
        if not int(text):
            raise ValueError(
                f"Expected a positive number of steps. Received: {value!r}"
            )
        return Interval(steps=int(text))
    return Interval(seconds=parse_seconds(text))


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()
