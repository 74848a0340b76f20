"""What `keras_metaformer.training.loop` adds to a bare `train_on_batch`.

One model, one step: first by `train_on_batch`, then by the loop that `km.train` runs,
with a checkpoint at its start and its end, in processes of their own that take turns.
Prints seconds a step and the most memory of each as JSON, and the ratios.

    KERAS_BACKEND=jax python -m benchmarks.training_overhead --model ConvFormerS18
"""

import argparse
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

_WARMUP = 2


def _batch(batch: int, size: int, classes: int) -> tuple[Any, Any]:
    import numpy as np

    random = np.random.default_rng(0)
    images = random.normal(size=(batch, size, size, 3)).astype("float32")
    return images, np.eye(classes, dtype="float32")[random.integers(0, classes, batch)]


class _SameBatch:
    """The same batch again and again: what is measured is the step, not the input."""

    def __init__(self, steps: int, batch: tuple[Any, Any]) -> None:
        self.steps_per_epoch, self._batch = steps, batch

    def epoch(self, epoch: int, start_step: int = 0):
        for _ in range(start_step, self.steps_per_epoch):
            yield self._batch


def measure(form: str, name: str, batch: int, size: int, steps: int) -> dict[str, Any]:
    """Seconds of each step after the first ones, and the process's most memory."""
    import keras_metaformer as km
    from keras_metaformer.training.loop import Interval, Loop

    classes = 10
    recipe = km.training.load_recipe("finetune", None, {"batch_size": batch})
    model = getattr(km, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=classes,
        classifier_activation=None,
        stochastic_depth_rate=0.1,
    )
    optimizer = km.training.build_optimizer(recipe, model, steps)
    model.compile(
        optimizer, km.training.build_loss(recipe, model), metrics=["accuracy"]
    )
    images, targets = _batch(batch, size, classes)
    times = [time.perf_counter()]
    if form == "bare":
        for _ in range(steps + _WARMUP):
            model.train_on_batch(images, targets)
            times.append(time.perf_counter())
    else:
        with tempfile.TemporaryDirectory() as folder:
            Loop(
                model,
                model,
                _SameBatch(steps + _WARMUP, (images, targets)),
                1,
                Path(folder) / "state.safetensors",
                interval=Interval(seconds=3600),
                on_step=lambda epoch, step: times.append(time.perf_counter()),
            ).run()
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
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--form", choices=("bare", "loop"))
    arguments = parser.parse_args()
    if arguments.form:
        found = measure(
            arguments.form,
            arguments.model,
            arguments.batch,
            arguments.size,
            arguments.steps,
        )
        print(json.dumps(found))
        return
    rows: list[dict[str, Any]] = []
    for turn in range(arguments.turns):
        for form in ("bare", "loop") if turn % 2 == 0 else ("loop", "bare"):
            finished = subprocess.run(
                [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--form", form],
                check=True,
                capture_output=True,
                text=True,
            )
            rows.append(json.loads(finished.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    bare, loop = (
        {
            key: min(row[key] for row in rows if row["form"] == form)
            for key in ("seconds", "bytes")
        }
        for form in ("bare", "loop")
    )
    result = {
        "backend": os.environ.get("KERAS_BACKEND"),
        "model": arguments.model,
        "batch": arguments.batch,
        "size": arguments.size,
        "step time": loop["seconds"] / bare["seconds"],
        "memory": loop["bytes"] / bare["bytes"],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
