"""What training with `km.train` adds to a bare `train_on_batch`.

One model, one step: first by `train_on_batch`, then by the loop that `km.train` runs,
with a checkpoint at its start and its end, then by `km.train` itself: images from a
worker process, a checkpoint every third step, validation, models, log and pictures.
Each is a process of its own; they take turns. Prints seconds a step and the most memory
of each as JSON, and the ratios to the bare step, each of one turn, with their median.

    KERAS_BACKEND=jax python -m benchmarks.training_overhead --model ConvFormerS18
"""

import argparse
import contextlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.training import without_tensorflow

_WARMUP = 2
_FORMS = ("bare", "loop", "train")
_CLASSES = 10
#: All that costs time before the model sees an image.
_PLAIN = {
    "rand_augment": "none",
    "random_resized_crop_scale": "0.9,1",
    "random_erasing": 0.0,
}


class _SameBatch:
    """The same batch again and again: what is measured is the step, not the input."""

    def __init__(self, steps: int, batch: tuple[Any, Any]) -> None:
        self.steps_per_epoch, self._batch = steps, batch

    def epoch(self, epoch: int, start_step: int = 0):
        for _ in range(start_step, self.steps_per_epoch):
            yield self._batch


def _bare(model: Any, images: Any, targets: Any, steps: int) -> list[float]:
    times = [time.perf_counter()]
    for _ in range(steps):
        model.train_on_batch(images, targets)
        times.append(time.perf_counter())
    return times


def _loop(model: Any, images: Any, targets: Any, steps: int) -> list[float]:
    from keras_metaformer.training.loop import Interval, Loop

    times = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        Loop(
            model,
            model,
            _SameBatch(steps, (images, targets)),
            1,
            Path(folder) / "state.safetensors",
            interval=Interval(seconds=3600),
            on_step=lambda epoch, step: times.append(time.perf_counter()),
        ).run()
    return times


def _train(
    name: str, overrides: dict[str, Any], size: int, steps: int, dtype: str
) -> list[float]:
    import keras
    import numpy as np

    import keras_metaformer as km

    times = [time.perf_counter()]

    class Clock(keras.callbacks.Callback):
        # A checkpoint is written after this: it is in the time of the next step.
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            times.append(time.perf_counter())

    # Two epochs: what the end of the first leaves behind is there in the second.
    number = -(-steps // 2) * overrides["batch_size"]
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, size, size, 3), "uint8")
    labels = np.arange(number) % _CLASSES
    held = random.integers(0, 256, (2 * _CLASSES, size, size, 3), "uint8")
    with tempfile.TemporaryDirectory() as folder:
        km.train(
            (images, labels),
            name,
            output=folder,
            validation=(held, np.arange(len(held)) % _CLASSES),
            weights=None,
            overrides={**overrides, **_PLAIN, "epochs": 2, "image_size": size},
            dtype=dtype,
            workers=1,
            checkpoint_every=3,
            callbacks=[Clock()],
            say=lambda _: None,
        )
    return times


def measure(form: str, name: str, batch: int, size: int, steps: int) -> dict[str, Any]:
    """Seconds of each step after the first ones, and the process's most memory."""
    # Users of another backend do not need it, and it is a quarter of a gigabyte.
    without_tensorflow.hide()
    import numpy as np

    import keras_metaformer as km
    from keras_metaformer.training import models

    overrides = {"batch_size": batch, "accumulate": 1}
    steps += _WARMUP
    if form == "train":
        times = _train(name, overrides, size, steps, "float32")
    else:
        recipe = km.training.load_recipe(
            "finetune", name, {**overrides, "image_size": size}
        )
        classes = [str(place) for place in range(_CLASSES)]
        classifier = models.start_model(
            name, recipe, classes, weights=None, dtype="float32", seed=0
        )
        random = np.random.default_rng(0)
        images = random.uniform(0, 255, (batch, size, size, 3)).astype("float32")
        targets = np.eye(_CLASSES, dtype="float32")[np.arange(batch) % _CLASSES]
        with models.giving_logits(classifier) as model:
            model.compile(
                km.training.build_optimizer(recipe, model, steps),
                km.training.build_loss(recipe, model),
                metrics=["accuracy"],
            )
            run = _bare if form == "bare" else _loop
            times = run(model, images, targets, steps)
    seconds = [b - a for a, b in itertools.pairwise(times)][_WARMUP:]
    return {
        "form": form,
        "seconds": statistics.median(seconds),
        "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ConvFormerS18")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=_FORMS, default=_FORMS)
    parser.add_argument("--form", choices=_FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        # Its progress is no part of the result.
        with contextlib.redirect_stdout(sys.stderr):
            found = measure(
                arguments.form,
                arguments.model,
                arguments.batch,
                arguments.size,
                arguments.steps,
            )
        print(json.dumps(found))
        return
    forms = ["bare", *(form for form in arguments.forms if form != "bare")]
    turns: list[dict[str, Any]] = []
    for turn in range(arguments.turns):
        rows: dict[str, Any] = {}
        for form in forms if turn % 2 == 0 else forms[::-1]:
            finished = subprocess.run(
                [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--form", form],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            rows[form] = json.loads(finished.stdout.splitlines()[-1])
            print(json.dumps(rows[form]), flush=True)
        turns.append(rows)
    result: dict[str, Any] = {
        "backend": os.environ.get("KERAS_BACKEND"),
        "model": arguments.model,
        "batch": arguments.batch,
        "size": arguments.size,
    }
    for form in forms[1:]:
        for key, name in (("seconds", "step time"), ("bytes", "memory")):
            ratios = [rows[form][key] / rows["bare"][key] for rows in turns]
            result[f"{form}: {name}"] = round(statistics.median(ratios), 3)
            result[f"{form}: {name}, turns"] = [round(ratio, 3) for ratio in ratios]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
