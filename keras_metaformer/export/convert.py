"""What is converted on the backend that has the converter, whichever this process has.

TensorFlow has the converters to TFLite, ONNX, SavedModel and OpenVINO's form, PyTorch
and JAX each that of its own. On that backend it runs in this process; on another the
model is saved, and a child process (`child.py`) loads and converts it there.
"""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.export.options import GraphOptions
from keras_metaformer_lite.litert.errors import ExportError
from keras_metaformer_lite.processes import run_python


@dataclasses.dataclass(frozen=True)
class Maker:
    """Who makes a form.

    Attributes:
        backend: of Keras, with the converter `<backend>_converter.py`.
        extra: of this package, or several, that install all it needs.
    """

    backend: str
    extra: str


MAKERS = {
    "tflite": Maker("tensorflow", "export"),
    "onnx": Maker("tensorflow", "onnx,tensorflow"),
    "tf_saved_model": Maker("tensorflow", "tensorflow"),
    # Keras' OpenVINO backend would fix the batch in attention.
    "openvino": Maker("tensorflow", "tensorflow,openvino"),
    "pt2": Maker("torch", "torch"),
    "stablehlo": Maker("jax", "jax"),
}


def convert(model: keras.Model, options: GraphOptions) -> bytes:
    """The float32 TFLite file of a model.

    Raises:
        ExportError: if the model cannot be converted to TFLite's own operators.
    """
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-export-") as folder:
        request = {"form": "tflite", "options": dataclasses.asdict(options)}
        return run_on_its_backend(model, request, Path(folder)).read_bytes()


def run_on_its_backend(
    model: keras.Model, request: dict[str, Any], folder: Path
) -> Path:
    """Convert a model as `convert_into` of the form's converter does, on any backend.

    Args:
        model: the model, which stays as it is.
        request: `form`, a key of `MAKERS`, and with `"tflite"` the fields of
            `GraphOptions` as `options`.
        folder: an empty folder, which gets the result and what a child process needs.

    Returns:
        The path of the result, in the folder.

    Raises:
        ExportError: if the model cannot be converted, or its converter's backend is
            not installed.
    """
    maker = MAKERS[request["form"]]
    if keras.backend.backend() == maker.backend:
        return convert_here(model, request, folder)
    install = f"pip install 'keras-metaformer[{maker.extra}]'"
    # What is in `sys.modules` may be a stand-in, which tells nothing of the child.
    if maker.backend not in sys.modules and not importlib.util.find_spec(maker.backend):
        raise ExportError(
            f"The conversion to {request['form']!r} runs in a child process on the "
            f"{maker.backend!r} backend, which is not installed here: {install}. "
            f"Received: model={model.name!r}"
        )
    model.save(folder / "model.keras")
    request = {**request, "modules": _modules(model)}
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    environment = {
        **os.environ,
        "KERAS_BACKEND": maker.backend,
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        "PYTHONPATH": os.pathsep.join(_search_path()),
    }
    child = run_python(
        "-m",
        "keras_metaformer.export.child",
        folder,
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    answer = folder / "answer.json"
    said = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
    if "error" in said:
        raise ExportError(said["error"])
    if child.returncode or "result" not in said:
        raise ExportError(
            f"The conversion runs in a child process on the {maker.backend!r} backend, "
            f"which ended with status {child.returncode}. That must be installed "
            f"({install}), and classes of your own be importable there. The child's "
            "last words:\n"
            f"{child.stderr[-2000:]}\nReceived: model={model.name!r}"
        )
    return folder / said["result"]


def convert_here(model: keras.Model, request: dict[str, Any], folder: Path) -> Path:
    """Convert a model in this process, on the backend that the form asks for.

    Args:
        model: the model, which stays as it is.
        request: as in `run_on_its_backend`.
        folder: where to.
    """
    backend = MAKERS[request["form"]].backend
    converter = importlib.import_module(f"keras_metaformer.export.{backend}_converter")
    return converter.convert_into(model, request, folder)


def _search_path() -> list[str]:
    """Where the child looks for modules: where this process does.

    The working directory comes last, so that no file there is taken for a package.
    """
    package = str(Path(__file__).parents[2])
    here = os.getcwd()
    parts = [part or here for part in sys.path]
    last = [here] if here in parts else []
    return [package, *(part for part in parts if part not in (package, here)), *last]


def _modules(model: keras.Model) -> list[str]:
    """Modules to import before loading, so that custom layers are registered."""
    # A private name, but the only list of all layers inside layers.
    layers = model._flatten_layers(include_self=True)
    names = {type(layer).__module__ for layer in layers}
    return sorted(name for name in names if name.split(".")[0] != "keras")
