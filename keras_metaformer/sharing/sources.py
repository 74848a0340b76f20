"""From where a whole model is loaded, and where it is written to."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from keras_metaformer.sharing import hugging_face
from keras_metaformer.sharing.folders import load_folder, refuse_arguments
from keras_metaformer.sharing.hugging_face import SCHEME, Address
from keras_metaformer.sharing.model_card import CardFacts
from keras_metaformer.sharing.timm_folder import save_timm_folder
from keras_metaformer_lite.weights.disk import replacement

if TYPE_CHECKING:
    from PIL import Image


def load(source: str | os.PathLike, **arguments: Any) -> keras.Model:
    """A whole model: its architecture, its weights, and what it knows of its images.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.PoolFormerV2S12(weights=None, classes=10)
    >>> save(model, "mine.keras")
    'mine.keras'
    >>> load("mine.keras").output_shape
    (None, 10)

    Args:
        source: a `.keras` file; a folder in Keras' layout or in timm's (`config.json`
            and the weights), of a model that is here too; or an address of the Hugging
            Face hub: `"hf://owner/name"`, a repository in one of these layouts, with
            `@revision` (a branch, tag or commit) behind it or not, or a file in one,
            `"hf://owner/name/file.keras"`.
        **arguments: of the model's constructor, for timm's layout alone: such as
            `dtype` and `include_preprocessing`.

    Returns:
        The model; from timm's layout it gives logits, as timm's does.

    Raises:
        FileNotFoundError: if there is nothing of that name.
        DownloadError: if the hub does not give it; an `OSError`.
        ValueError: if it is none of these, or does not fit.
    """
    if isinstance(source, str) and source.startswith(SCHEME):
        address = Address.parse(source)
        if address.file is not None:
            _check_ending(Path(address.file), source)
        path = hugging_face.fetch(address)
    else:
        path = Path(source)
    if path.is_dir():
        return load_folder(path, **arguments)
    _check_ending(path, source)
    if not path.is_file():
        raise FileNotFoundError(f"No such file. Received: {os.fspath(source)!r}")
    refuse_arguments(arguments)
    model: Any = keras.saving.load_model(path)
    return model


def _check_ending(path: Path, source: str | os.PathLike) -> None:
    if path.suffix != ".keras":
        raise ValueError(
            "Expected a .keras file, a folder in Keras' or timm's layout, or an "
            "address such as 'hf://owner/name'. Weights alone are for `weights=PATH` "
            f"of a constructor. Received: {os.fspath(source)!r}"
        )


def save(
    model: keras.Model,
    target: str | os.PathLike,
    *,
    architecture: str | None = None,
    licence: str | None = None,
    metrics: Mapping[str, float] | None = None,
    dataset: str | None = None,
    picture: "str | os.PathLike | Image.Image | None" = None,
    private: bool | None = None,
) -> str:
    """Write a whole model, each file whole or not at all.

    On the Hugging Face hub the model comes with a card, `README.md`: what its images
    are, its classes and stages, what is told here, and a picture. All files are one
    commit; a card that somebody wrote is left as it is.

    Args:
        model: any Keras model for a `.keras` file; for timm's layout one of this
            library that timm has too.
        target: ends in `.keras`; or is a folder, which is written in timm's layout; or
            an address of the hub, `"hf://owner/name"` or `"hf://owner/name@branch"`.
            The repository is made where it is not there.
        architecture: for timm's layout the constructor's name, such as
            `"CAFormerS18"`, where the model's own name does not say it. On the hub a
            model with `architecture` is in timm's layout, without it in Keras'.
        licence: on the hub: identifier of its list, such as `"apache-2.0"`.
        metrics: on the hub: numbers by name, such as `{"accuracy": 0.93}`.
        dataset: on the hub: name of the images that these were measured on.
        picture: on the hub: Pillow image or path of one, instead of a drawing of the
            model's stages.
        private: on the hub: whether a new repository is private; None as the account
            has it.

    Returns:
        What `load` takes to get this model: `target`, on the hub with the commit.

    Raises:
        ValueError: if the ending is another, or timm has no such model.
        OSError: if it cannot be written; `UploadError` on the hub, which then holds
            what it held.
    """
    facts = CardFacts(licence, metrics, dataset, picture)
    if isinstance(target, str) and target.startswith(SCHEME):
        saved = hugging_face.upload(
            model,
            Address.parse(target),
            architecture=architecture,
            facts=facts,
            private=private,
        )
        return str(saved)
    given = facts.said() + ["private"] * (private is not None)
    if given:
        raise ValueError(
            "These are for models on the hub, 'hf://owner/name'. "
            f"Received: target={os.fspath(target)!r} with {', '.join(given)}"
        )
    path = Path(target)
    if path.suffix == ".keras":
        if architecture is not None:
            raise ValueError(
                "`architecture` is for timm's layout, which is a folder. "
                f"Received: target={os.fspath(target)!r}"
            )
        with replacement(path, ".keras") as temporary:
            model.save(temporary)
    elif path.suffix in (".h5", ".safetensors", ".npz", ".tflite", ".onnx"):
        raise ValueError(
            "Expected a name that ends in .keras, or that of a folder for timm's "
            f"layout. Received: target={os.fspath(target)!r}"
        )
    else:
        save_timm_folder(model, path, architecture)
    return os.fspath(target)
