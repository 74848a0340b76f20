"""Other forms than LiteRT's: ONNX, SavedModel, OpenVINO, `.pt2` and StableHLO."""

import os
from collections.abc import Callable
from pathlib import Path

import keras

from keras_metaformer.export.convert import run_on_its_backend
from keras_metaformer.inference.folding import check_not_quantized
from keras_metaformer_lite.litert import files


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
    return _to_file(model, path, "onnx")


def to_openvino(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model for OpenVINO: a `.xml` file and, beside it, a `.bin` file.

    `openvino.compile_model(path)` runs it.

    Args:
        model: functional or sequential model of images of one size, on any backend; its
            batch stays open. Where the backend is not TensorFlow, a child process
            exports.
        path: of the file with the graph, ending in `.xml`; the weights stand beside it.
            Files there are replaced.

    Returns:
        The path.

    Raises:
        ExportError: if the model cannot be exported; the message has the reason.
        TypeError: if `model` is no such model.
        ValueError: if `path` ends otherwise, is a folder, or in none that can be
            written to; or the model is quantized, or takes images of any size.
    """
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(
            "OpenVINO's files end in .xml, and its weights in .bin. "
            f"Received: path={str(path)!r}"
        )
    weights = path.with_suffix(".bin")
    files.check_file(path)
    files.check_file(weights)
    _check_model(model)
    _check_size(model)
    with files.folder_beside(path) as folder:
        graph = run_on_its_backend(model, {"form": "openvino"}, folder)
        os.replace(graph.with_suffix(".bin"), weights)
        os.replace(graph, path)
    return path


def to_pt2(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model to a program of `torch.export`.

    `torch.export.load(path).module()` runs it, without Keras, and torch's AOTInductor
    compiles it.

    Args:
        model: functional or sequential model of images of one size, on any backend; its
            batch stays open. Where the backend is not PyTorch, a child process exports.
        path: of the file, ending in `.pt2`. A file there is replaced.

    Returns:
        The path.

    Raises:
        ExportError: if torch cannot export the model; the message has its reason.
        TypeError: if `model` is no such model.
        ValueError: if `path` is a folder, or in none that can be written to; or the
            model is quantized, or takes images of any size.
    """
    return _to_file(model, path, "pt2", _check_size)


def to_stablehlo(model: keras.Model, path: str | os.PathLike[str]) -> Path:
    """Export a folded model to StableHLO, as `jax.export` serialises it.

    `jax.export.deserialize(bytes).call(images)` runs it, without Keras, on a CPU, a GPU
    or a TPU.

    Args:
        model: functional or sequential model of one image of one size, on any backend;
            its batch stays open. Where the backend is not JAX, a child process exports.
        path: of the file. A file there is replaced.

    Returns:
        The path.

    Raises:
        ExportError: if JAX cannot export the model; the message has its reason.
        TypeError: if `model` is no such model.
        ValueError: if `path` is a folder, or in none that can be written to; or the
            model is quantized, or takes images of any size.
    """
    return _to_file(model, path, "stablehlo", _check_size)


def _to_file(
    model: keras.Model,
    path: str | os.PathLike[str],
    form: str,
    check: Callable[[keras.Model], None] | None = None,
) -> Path:
    path = Path(path)
    files.check_file(path)
    _check_model(model)
    if check is not None:
        check(model)
    with files.folder_beside(path) as folder:
        os.replace(run_on_its_backend(model, {"form": form}, folder), path)
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
        new = run_on_its_backend(model, {"form": "tf_saved_model"}, folder)
        files.place_saved_model(new, path, folder)
    return path


def _check_size(model: keras.Model) -> None:
    """Raise a `ValueError` unless all axes but the batch are known.

    These exporters trace a model with an image, and keep of it what is open.
    """
    shapes = [tuple(image.shape) for image in model.inputs]
    if len(shapes) != 1 or None in shapes[0][1:]:
        raise ValueError(
            "Expected a model of one image of known height and width: build it with "
            "input_shape=(height, width, channels). "
            f"Received: shapes of inputs={shapes}"
        )


def _check_model(model: keras.Model) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            "Expected a functional or sequential Keras model that knows its inputs. "
            f"Received: model={model!r} of type {type(model).__name__}"
        )
    check_not_quantized(model, "export it")
