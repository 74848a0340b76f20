"""ONNX and SavedModel, through Keras' own exporters."""

import os
from pathlib import Path

import keras

from keras_metaformer.export import files
from keras_metaformer.export.convert import run_on_tensorflow
from keras_metaformer.inference.folding import check_not_quantized


def to_onnx(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model to an ONNX file, for onnxruntime and others.

    Args:
        model: functional or sequential model, on any backend, compiled or called or
            not; its batch stays open. Where the backend is not TensorFlow, a child
            process exports.
        path: of the file, as a rule ending in `.onnx`. A file there is replaced.

    Returns:
        The path.

    Raises:
        ExportError: if Keras cannot export the model; the message has its reason.
        TypeError: if `model` is no such model.
        ValueError: if `path` is a folder, or in none that can be written to, or the
            model is quantized.
    """
    path = Path(path)
    files.check_file(path)
    _check_model(model)
    with files.folder_beside(path) as folder:
        os.replace(run_on_tensorflow(model, {"form": "onnx"}, folder), path)
    return path


def to_saved_model(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model to a SavedModel folder, for TensorFlow Serving.

    The signature `serving_default` takes a batch of images.

    Args:
        model: functional or sequential model, on any backend. Where that is not
            TensorFlow, a child process exports.
        path: of the folder: a new one, or that of an earlier SavedModel, which is
            replaced. Any other is refused, an empty one too.

    Returns:
        The path.

    Raises:
        ExportError: if Keras cannot export the model; the message has its reason.
        TypeError: if `model` is no such model.
        ValueError: if `path` stands for something other than a SavedModel, or the
            model is quantized.
    """
    path = Path(path)
    files.check_saved_model(path)
    _check_model(model)
    with files.folder_beside(path) as folder:
        new = run_on_tensorflow(model, {"form": "tf_saved_model"}, folder)
        files.place_saved_model(new, path, folder)
    return path


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "Expected a functional or sequential Keras model that knows its inputs. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    check_not_quantized(model, "export it")
