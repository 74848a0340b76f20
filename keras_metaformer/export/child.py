"""The child process that converts models of the JAX and PyTorch backends.

Runs as `python -m keras_metaformer.export.child FOLDER` on Keras' TensorFlow backend.
`FOLDER` holds `model.keras` and `request.json`; it gets `model.tflite` or `error.txt`.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Convert what lies in the folder."""
    import keras

    from keras_metaformer.export.convert import GraphOptions
    from keras_metaformer.export.errors import ExportError
    from keras_metaformer.export.tensorflow_converter import convert_in_process

    request = json.loads((folder / "request.json").read_text())
    for module in request["modules"]:
        if module != "__main__":
            importlib.import_module(module)
    try:
        try:
            file = folder / "model.keras"
            model: Any = keras.saving.load_model(file, compile=False)
        except (TypeError, ValueError) as error:
            raise ExportError(
                "The model cannot be loaded on the TensorFlow backend, which has the "
                "converter. Classes of your own must stand in a module that can be "
                "imported, with @keras.saving.register_keras_serializable(). "
                f"{type(error).__name__}: {error}"
            ) from error
        tflite = convert_in_process(model, GraphOptions(**request["options"]))
    except ExportError as error:
        (folder / "error.txt").write_text(str(error))
        raise SystemExit(1) from error
    (folder / "model.tflite").write_bytes(tflite)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
