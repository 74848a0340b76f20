"""Keras' own files: `.weights.h5`, `.weights.json` and the weights in a `.keras`."""

import contextlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.layers.token_weights import adapted_tokens

_WEIGHTS_OF_MODEL = "model.weights.h5"
_MOST_BYTES_OF_CONFIG = 1 << 24


def classes(model: keras.Model, path: Path, classifier: str) -> int | None:
    """The width of the classifier in a file; None where it or the model has none.

    Args:
        model: that the file is for, up to the number of classes.
        path: of the file.
        classifier: name of the dense layer that gives the scores.
    """
    import h5py

    # Keras numbers the layers of a class in the model's order.
    dense = [layer.name for layer in model.layers if type(layer) is keras.layers.Dense]
    if classifier not in dense:
        return None
    index = dense.index(classifier)
    bias = f"layers/dense{f'_{index}' if index else ''}/vars/1"
    try:
        with _weights(path) as weights, h5py.File(weights) as file:
            found = file.get(bias)
            if isinstance(found, h5py.Dataset) and len(found.shape) == 1:
                return found.shape[0]
            return None
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile):
        return None  # in parts (.weights.json), or damaged: Keras says how


def image_size(path: Path) -> tuple[int, int] | None:
    """`(height, width)` of the images that the model in a `.keras` file takes.

    Args:
        path: of any file of Keras; one of weights alone says nothing.

    Returns:
        The size in pixels, or None where it is not said, or is any.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("config.json") as file:
            layers = json.loads(file.read(_MOST_BYTES_OF_CONFIG))["config"]["layers"]
        sizes = [
            tuple(layer["config"]["batch_shape"][1:3])
            for layer in layers
            if layer["class_name"] == "InputLayer"
        ]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return None
    is_one = len(sizes) == 1 and len(sizes[0]) == 2
    known = is_one and all(type(size) is int and size > 0 for size in sizes[0])
    return (sizes[0][0], sizes[0][1]) if known else None


def load(
    model: keras.Model,
    path: Path,
    without: keras.layers.Layer | None = None,
    adapt_tokens: Callable[..., Any] | None = None,
) -> None:
    """Load a file, all but one layer.

    Args:
        model: receives the weights.
        path: of the file.
        without: the layer that stays as it is.
        adapt_tokens: as in `adapted_tokens`, or None.

    Raises:
        ValueError: if the file does not fit, or is damaged.
    """
    try:
        with contextlib.ExitStack() as stack:
            weights = stack.enter_context(_weights(path))
            if adapt_tokens is not None:
                stack.enter_context(adapted_tokens(adapt_tokens))
            if without is None:
                model.load_weights(weights)
            else:
                model.load_weights(weights, objects_to_skip=[without])
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        # What h5py and zipfile raise for damaged files.
        raise ValueError(
            f"The file cannot be read: {error}. Received: path={str(path)!r}"
        ) from error


@contextlib.contextmanager
def _weights(path: Path) -> Iterator[Path]:
    """The file itself, or the weights out of a `.keras` in a folder of its own."""
    if path.suffix != ".keras":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
        target = Path(folder) / _WEIGHTS_OF_MODEL
        with archive.open(_WEIGHTS_OF_MODEL) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
        yield target
