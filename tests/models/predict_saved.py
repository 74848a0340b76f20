"""Run by a test in a process of its own: predictions of saved models as they load here.

Usage: python predict_saved.py DIRECTORY, with KERAS_BACKEND set. For each NAME.keras it
reads NAME.images.npy and writes NAME.BACKEND.npy.
"""

import functools
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Imported from the package, which registers the layers.
from keras_metaformer.arrays import to_numpy


def main(directory: Path) -> None:
    backend = keras.backend.backend()
    if backend == "openvino":
        import openvino

        # It computes in bfloat16 where the processor has operations for that, and
        # Keras passes no option on.
        openvino.compile_model = functools.partial(
            openvino.compile_model, config={"INFERENCE_PRECISION_HINT": "f32"}
        )
    for file in sorted(directory.glob("*.keras")):
        model: Any = keras.saving.load_model(file)
        images = np.load(directory / f"{file.stem}.images.npy")
        if backend == "openvino":  # Its way to run whole models.
            outputs = model.predict(images, verbose=0)
        else:
            outputs = to_numpy(model(images, training=False))
        np.save(directory / f"{file.stem}.{backend}.npy", outputs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
