"""From where a whole model is loaded, and where it is written to."""

import os
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.sharing.timm_folder import load_timm_folder, save_timm_folder
from keras_metaformer_lite.weights.disk import replacement


def load(source: str | os.PathLike, **arguments: Any) -> keras.Model:
    """A whole model: its architecture, its weights, and what it knows of its images.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.PoolFormerV2S12(weights=None, classes=10)
    >>> save(model, "mine.keras")
    >>> load("mine.keras").output_shape
    (None, 10)

    Args:
        source: a `.keras` file, or a folder in timm's layout, with `config.json` and
            `model.safetensors`, of a model that is here too.
        **arguments: of the model's constructor, for timm's layout alone: such as
            `dtype` and `include_preprocessing`.

    Returns:
        The model; from timm's layout it gives logits, as timm's does.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        ValueError: if it is none of these, or does not fit.
    """
    path = Path(source)
    if path.is_dir():
        return load_timm_folder(path, **arguments)
    if path.suffix != ".keras":
        raise ValueError(
            "Expected a .keras file, or a folder in timm's layout. Weights alone are "
            f"for `weights=PATH` of a constructor. Received: {os.fspath(source)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"No such file. Received: {os.fspath(source)!r}")
    if arguments:
        raise ValueError(
            "A .keras file says itself how its model is made. "
            f"Received: {sorted(arguments)}"
        )
    model: Any = keras.saving.load_model(path)
    return model


def save(
    model: keras.Model, target: str | os.PathLike, *, architecture: str | None = None
) -> None:
    """Write a whole model, each file whole or not at all.

    Args:
        model: any Keras model for a `.keras` file; for timm's layout one of this
            library that timm has too.
        target: ends in `.keras`, or is a folder, which is written in timm's layout.
        architecture: for timm's layout the constructor's name, such as
            `"CAFormerS18"`, where the model's own name does not say it.

    Raises:
        ValueError: if the ending is another, or timm has no such model.
        OSError: if it cannot be written.
    """
    path = Path(target)
    if path.suffix == ".keras":
        if architecture is not None:
            raise ValueError(
                "`architecture` is for timm's layout, which is a folder. "
                f"Received: target={os.fspath(target)!r}"
            )
        with replacement(path, ".keras") as temporary:
            model.save(temporary)
        return
    if path.suffix in (".h5", ".safetensors", ".npz", ".tflite", ".onnx"):
        raise ValueError(
            "Expected a name that ends in .keras, or that of a folder for timm's "
            f"layout. Received: target={os.fspath(target)!r}"
        )
    save_timm_folder(model, path, architecture)
