"""Run by a test in a process of its own: what saved KerasHub models say here.

Usage: python -m tests.hub.predict_saved DIRECTORY, with KERAS_BACKEND set. It reads
images.npy and each NAME.keras and writes NAME.npz, the outputs by name.
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_metaformer.hub  # noqa: F401 - registers its classes with Keras
from keras_metaformer.arrays import to_numpy


def main(directory: Path) -> None:
    images = np.load(directory / "images.npy")
    for file in sorted(directory.glob("*.keras")):
        model: Any = keras.saving.load_model(file)
        outputs = model(images, training=False)
        named = outputs if isinstance(outputs, dict) else {"logits": outputs}
        arrays: Any = {name: to_numpy(value) for name, value in named.items()}
        np.savez(file.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
