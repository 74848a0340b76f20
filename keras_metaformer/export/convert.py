"""From a Keras model to the bytes of a float32 TFLite file, on any backend."""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

import keras

from keras_metaformer.export.errors import ExportError
from keras_metaformer.processes import run_python

#: Signature of the file, as Keras and TensorFlow name it.
SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class GraphOptions:
    """What the exported graph adds to the model.

    Attributes:
        input_shape: `(height, width, channels)` of the image.
        mean: per channel, of pixels 0..1, or None where nothing is normalised.
        std: likewise the standard deviation.
        output: `"model"`, `"probabilities"` (softmax of a model that gives logits) or
            `"logits"` (a model without its softmax).
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str = "model"


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether the model gives probabilities."""
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        return ends_in_softmax(last)
    if isinstance(last, keras.layers.Softmax):
        return True
    return getattr(last, "activation", None) is keras.activations.softmax


def convert(model: keras.Model, options: GraphOptions) -> bytes:
    """The float32 file of a model.

    TensorFlow has the converter: on another backend the model is saved, and a child
    process loads and converts it there.

    Raises:
        ExportError: if the model cannot be converted to TFLite's own operators.
    """
    if keras.backend.backend() == "tensorflow":
        from keras_metaformer.export.tensorflow_converter import convert_in_process

        return convert_in_process(model, options)
    return _convert_in_child(model, options)


def _convert_in_child(model: keras.Model, options: GraphOptions) -> bytes:
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-export-") as name:
        folder = Path(name)
        model.save(folder / "model.keras")
        request = {"options": dataclasses.asdict(options), "modules": _modules(model)}
        (folder / "request.json").write_text(json.dumps(request))
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
            # The child finds the modules that this process finds; in the current
            # folder ("") what is nowhere else, so that nothing there is taken for
            # TensorFlow, which this process may never have imported.
            "PYTHONPATH": os.pathsep.join(
                [*filter(None, sys.path), *([os.getcwd()] if "" in sys.path else [])]
            ),
        }
        child = run_python("-m", "keras_metaformer.export.child", name, env=environment)
        if (folder / "error.txt").exists():
            raise ExportError((folder / "error.txt").read_text())
        if child.returncode or not (folder / "model.tflite").exists():
            raise ExportError(
                "The conversion runs in a child process on the TensorFlow backend, "
                f"which ended with status {child.returncode}. TensorFlow must be "
                "installed (`pip install keras-metaformer[export]`), and classes of "
                "your own be importable there. The child's last words:\n"
                + child.stderr[-2000:]
            )
        return (folder / "model.tflite").read_bytes()


def _modules(model: keras.Model) -> list[str]:
    """Modules to import before loading, so that custom layers are registered."""
    # A private name, but the only list of all layers inside layers.
    layers = model._flatten_layers(include_self=True)
    names = {type(layer).__module__ for layer in layers}
    return sorted(name for name in names if name.split(".")[0] != "keras")
