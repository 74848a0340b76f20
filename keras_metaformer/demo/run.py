"""The demo: from digits to a trained model, a .tflite file, a report and pictures."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.data.digits import load_digits
from keras_metaformer.demo.models import (
    CLASSES,
    FAMILIES,
    IMAGE_SIZE,
    build_model,
)
from keras_metaformer.demo.pictures import draw_curves, draw_digits
from keras_metaformer.demo.training import SILENT, train
from keras_metaformer.export.litert import to_litert
from keras_metaformer_lite.litert.runner import LiteRTModel

_TIMED_IMAGES = 50
_COMPARED_IMAGES = 32


def run_demo(
    folder: Path,
    epochs: int,
    seed: int,
    say: Callable[[str], None],
    family: str = "caformer",
) -> dict[str, Any]:
    """Trains, evaluates, saves, exports and compares; writes everything to `folder`.

    Args:
        folder: an existing directory.
        epochs: passes over the training digits.
        seed: seed of all that is random.
        say: called with each line of progress.
        family: a key of `models.FAMILIES`.

    Returns:
        The report: accuracies, agreement, sizes and times, and the files written.
    """
    keras.utils.set_random_seed(seed)
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        # The model is so small that more threads wait for each other: on two busy
        # cores an epoch took ten times as long with two.
        torch.set_num_threads(1)

    digits = load_digits(IMAGE_SIZE, seed=seed)
    model = build_model(seed, family)
    title, _ = FAMILIES[family]
    say(
        f"{title} with {model.count_params():,} parameters learns from "
        f"{len(digits.train_labels)} digits on the {backend} backend; "
        f"{len(digits.test_labels)} are held out. The first epoch compiles."
    )
    history = train(model, digits, epochs, seed, callbacks=[_Progress(say)])

    saved, exported = folder / "digits.keras", folder / "digits.tflite"
    _save(model, saved)
    if backend == "tensorflow":
        say("Exporting to LiteRT.")
    else:
        say(
            f"Exporting to LiteRT. The {backend} backend has no converter: a child "
            "process loads the model on TensorFlow and exports it there."
        )
    images = digits.test_images.astype("float32")
    to_litert(
        model,
        exported,
        labels=[str(digit) for digit in range(CLASSES)],
        images=images[:_COMPARED_IMAGES],
        check_gpu=False,
        verbose=False,
    )

    say(f"Running both on the {len(images)} held-out digits.")
    expected = np.asarray(model.predict(images, verbose=SILENT))
    keras_time = _median_milliseconds(model.predict_on_batch, images)
    litert = LiteRTModel(exported)
    found = litert.predict(images)
    litert_time = _median_milliseconds(litert.predict, images)

    answers = expected.argmax(axis=-1)
    curves, grid = folder / "learning_curves.png", folder / "digits.png"
    draw_curves(history, curves)
    draw_digits(digits.test_images, digits.test_labels, found, grid)
    return {
        "family": family,
        "backend": backend,
        "seed": seed,
        "epochs": epochs,
        "parameters": model.count_params(),
        "held_out": len(images),
        "keras": {
            "accuracy": float(np.mean(answers == digits.test_labels)),
            "bytes": saved.stat().st_size,
            "milliseconds": keras_time,
        },
        "litert": {
            "accuracy": float(np.mean(found.argmax(axis=-1) == digits.test_labels)),
            "bytes": exported.stat().st_size,
            "milliseconds": litert_time,
        },
        "agreement": float(np.mean(found.argmax(axis=-1) == answers)),
        "largest_difference": float(np.abs(found - expected).max()),
        "files": {
            "model": str(saved),
            "LiteRT model": str(exported),
            "learning curves": str(curves),
            "test digits": str(grid),
        },
    }


class _Progress(keras.callbacks.Callback):
    """Says one line after each epoch."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        total = (self.params or {}).get("epochs", 0)
        self._say(
            f"epoch {epoch + 1:2}/{total}  loss {logs['loss']:.3f}  "
            f"accuracy {logs['accuracy']:6.1%}  held out {logs['val_accuracy']:6.1%}  "
            f"{time.perf_counter() - self._start:5.1f} s"
        )


def _save(model: keras.Model, path: Path) -> None:
    temporary = path.with_name(f".{path.stem}.tmp.keras")
    model.save(temporary)
    os.replace(temporary, path)


def _median_milliseconds(
    predict: Callable[[np.ndarray], Any], images: np.ndarray
) -> float:
    """The median time of one image, after one that compiles and warms up."""
    predict(images[:1])
    times = []
    for index in range(min(_TIMED_IMAGES, len(images))):
        start = time.perf_counter()
        predict(images[index : index + 1])
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
