"""How many images of a batch a machine takes, found out in processes of their own.

One for each size: what runs out of memory there costs this process nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.training.recipe import Recipe
from keras_metaformer_lite.processes import run_python

_SMALLEST, _LARGEST = 8, 1024
_STEPS = 3
#: More images a second than at the size before, at least, for a larger one.
_GAIN = 1.05
#: Of the memory that there is.
_MOST_MEMORY = 0.8
_SECONDS = 900


def best_batch_size(
    model: str | keras.Model,
    recipe: Recipe,
    policy: str,
    images: int,
    say: Callable[[str], None],
) -> int:
    """The batch size with which training is fastest, of powers of 2 from 8 up.

    The smallest one is taken that no larger one outdoes by 5 %.

    Args:
        model: a constructor's name, the path of a `.keras` file, or a model.
        recipe: of the training.
        policy: dtype policy.
        images: of the training data: no batch is larger.
        say: called with a line for each size.

    Raises:
        ValueError: if not even the smallest size can be trained.
    """
    best, rate = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-batch-") as folder:
        if isinstance(model, keras.Model):
            path = Path(folder) / "model.keras"
            model.save(path)
            model = str(path)
        size = _SMALLEST
        while size <= min(_LARGEST, max(images, _SMALLEST)):
            found = _tried(model, recipe, policy, size)
            if "error" in found:
                say(f"batch {size}: {found['error']}")
                break
            say(
                f"batch {size}: {found['rate']:.4g} images/s, "
                f"{found['bytes'] / 1e9:.1f} GB"
            )
            if found["rate"] < rate * _GAIN:
                break
            best, rate = size, found["rate"]
            if 2 * found["bytes"] > _MOST_MEMORY * found["memory"]:
                break
            size *= 2
    if not best:
        raise ValueError(
            f"Not even batches of {_SMALLEST} images can be trained here "
            f"({found['error']}): give a smaller model or image size, or `batch_size`. "
            f"Received: model={model!r}"
        )
    say(f"batch {best} it is")
    return best


def _tried(model: str, recipe: Recipe, policy: str, size: int) -> dict[str, Any]:
    request = {
        "model": model,
        "image_size": recipe.image_size,
        "freeze": recipe.freeze,
        "policy": policy,
        "size": size,
    }
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    # Else JAX takes most of the memory at once, and shows nothing.
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    try:
        finished = run_python(
            "-m",
            __name__,
            json.dumps(request),
            env=environment,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no {_STEPS} steps in {_SECONDS} s"}
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [
            f"ended with code {finished.returncode}"
        ]
        return {"error": lines[-1][:200]}
    return json.loads(finished.stdout.splitlines()[-1])


def _try(request: dict[str, Any]) -> dict[str, Any]:
    """Trains a few steps on noise; in the child process."""
    from keras_metaformer.training import models
    from keras_metaformer.training.memory import peak_bytes
    from keras_metaformer.training.recipe import (
        build_loss,
        build_optimizer,
        load_recipe,
    )

    size = request["size"]
    overrides = {"batch_size": size, "accumulate": 1, "head": "new"}
    if request["image_size"]:
        overrides["image_size"] = request["image_size"]
    recipe = load_recipe("finetune", None, overrides)
    model = models.start_model(
        request["model"],
        recipe,
        ["0", "1"],
        weights=None,
        dtype=request["policy"],
        seed=0,
    )
    if request["freeze"]:
        models.freeze_all_but_classifier(model)
    with models.giving_logits(model) as trained:
        trained.compile(
            build_optimizer(recipe, trained, 1), build_loss(recipe, trained)
        )
        images = np.zeros((size, *trained.input_shape[1:]), "float32")
        targets = np.eye(2, dtype="float32")[np.arange(size) % 2]
        trained.train_on_batch(images, targets)
        start = time.perf_counter()
        for _ in range(_STEPS):
            trained.train_on_batch(images, targets)
        seconds = time.perf_counter() - start
    return {
        "rate": _STEPS * size / seconds,
        "bytes": peak_bytes()[0],
        "memory": _memory(),
    }


def _memory() -> int:
    """Bytes of the device that are there to be used."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_properties(0).total_memory
    elif backend == "jax":
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        if "bytes_limit" in stats:
            return stats["bytes_limit"]
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return _nvidia_memory()
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except OSError:  # not on macOS and Windows
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 8 << 30


def _nvidia_memory() -> int:
    # TensorFlow does not say how much there is.
    finished = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(finished.stdout.split()[0]) << 20


if __name__ == "__main__":
    print(json.dumps(_try(json.loads(sys.argv[1]))))
