"""The child process that converts models of other backends than its own.

Runs as `python -P -m keras_metaformer.export.child FOLDER` on the backend that has the
converter. `FOLDER` holds `model.keras` and `request.json`; it gets the result and
`answer.json`, which names the result or says why there is none.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def main(folder: Path) -> None:
    """Convert what lies in the folder."""
    import keras

    from keras_metaformer.export.convert import convert_here
    from keras_metaformer_lite.litert.errors import ExportError

    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    for module in request["modules"]:
        if module != "__main__":
            importlib.import_module(module)
    try:
        try:
            file = folder / "model.keras"
            model: Any = keras.saving.load_model(file, compile=False)
        except (TypeError, ValueError) as error:
            raise ExportError(
                f"The model cannot be loaded on the {keras.backend.backend()!r} "
                "backend, which has the converter. Classes of your own must stand in a "
                "module that can be imported, with "
                "@keras.saving.register_keras_serializable(). "
                f"{type(error).__name__}: {error}. "
                f"Received: classes of the modules {request['modules']}"
            ) from error
        answer = {"result": convert_here(model, request, folder).name}
    except ExportError as error:
        answer = {"error": str(error)}
    (folder / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
