"""ONNX and SavedModel, through Keras' own exporters."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.export.errors import ExportError
from keras_metaformer.inference.folding import fold
from keras_metaformer.layers import fast_paths


def to_onnx(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model to an ONNX file, for onnxruntime and others.

    Args:
        model: functional model, on any backend; its batch stays open.
        path: of the file, as a rule ending in `.onnx`.

    Returns:
        The path.

    Raises:
        ExportError: if Keras cannot export the model; the message has its reason.
    """
    return _export(model, Path(path), "onnx")


def to_saved_model(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model to a SavedModel folder, for TensorFlow Serving.

    The signature `serving_default` takes a batch of images.

    Args:
        model: functional model, on the TensorFlow or JAX backend.
        path: of the folder.

    Returns:
        The path.

    Raises:
        ExportError: if Keras cannot export the model; the message has its reason.
    """
    return _export(model, Path(path), "tf_saved_model")


def _export(model: keras.Model, path: Path, form: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        temporary = Path(folder) / (path.name or "model")
        # Keras refuses a model that was never called, unless told what it takes.
        signature = [
            keras.InputSpec(shape=image.shape, dtype=image.dtype, name=image.name)
            for image in model.inputs
        ]
        options: dict[str, Any] = {"format": form, "verbose": False}
        options["input_signature"] = signature
        try:
            with fast_paths.switched(False):  # Plain operations, for every reader.
                fold(model).export(temporary, **options)
        except Exception as error:  # The exporters raise many kinds.
            raise ExportError(
                f"Keras cannot export the model to {form!r} on the "
                f"{keras.backend.backend()} backend: {type(error).__name__}: {error}"
            ) from error
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    return path
