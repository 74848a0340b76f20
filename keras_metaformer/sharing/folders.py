"""Folders that hold a whole model, in Keras' layout or in timm's."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.sharing import timm_folder
from keras_metaformer.sharing.config_file import CONFIG, read_config

KERAS_WEIGHTS = ("model.weights.h5", "model.weights.npz")
#: The files of either layout.
ALL_FILES = frozenset(
    (CONFIG, "metadata.json", *KERAS_WEIGHTS, *timm_folder.WEIGHT_FILES)
)


def weight_files(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the weights of a folder with this config may be called, best first."""
    return KERAS_WEIGHTS if "class_name" in config else timm_folder.WEIGHT_FILES


def load_folder(folder: Path, **arguments: Any) -> keras.Model:
    """The model of a folder in either layout.

    Args:
        folder: with `config.json` and the weights.
        **arguments: of the model's constructor, for timm's layout.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if the model is none of these, or the weights do not fit.
    """
    config = read_config(folder)
    if "class_name" not in config:
        return timm_folder.load_timm_folder(folder, **arguments)
    refuse_arguments(arguments)
    if not any((folder / name).is_file() for name in KERAS_WEIGHTS):
        raise FileNotFoundError(
            f"Expected a folder with {CONFIG} and {KERAS_WEIGHTS[0]}. "
            f"Received: {os.fspath(folder)!r}"
        )
    model: Any = keras.saving.load_model(folder)
    return model


def refuse_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise a `ValueError` where there are any."""
    if arguments:
        raise ValueError(
            "A model that Keras has saved says itself how it is made. "
            f"Received: {sorted(arguments)}"
        )


def save_keras_folder(model: keras.Model, folder: Path) -> None:
    """Write a model in Keras' layout, as `keras.saving.load_model` reads it.

    Args:
        model: any Keras model.
        folder: an empty one.

    Raises:
        ValueError: if a layer keeps files of its own, such as a vocabulary.
    """
    keras.saving.save_model(model, folder, zipped=False)
    assets = folder / "assets"
    if assets.is_dir():
        if any(path.is_file() for path in assets.rglob("*")):
            raise ValueError(
                "Expected a model whose layers keep no files of their own; save it as "
                f"a .keras file. Received: {model.name!r} with "
                f"{sorted(path.name for path in assets.iterdir())}"
            )
        shutil.rmtree(assets)
