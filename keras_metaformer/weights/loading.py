"""From the `weights` argument of a constructor to loaded weights."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras

from keras_metaformer.layers.initializers import undrawn
from keras_metaformer.weights.files import keras_files
from keras_metaformer.weights.files.readers import read_checkpoint
from keras_metaformer.weights.porting import (
    CLASSIFIER,
    PortingError,
    classifier_width,
    port_weights,
    token_resizer,
)
from keras_metaformer_lite.names import question
from keras_metaformer_lite.weights import cache, catalogue

Model = TypeVar("Model", bound=keras.Model)

#: Endings of the files that Keras itself writes and reads.
KERAS_SUFFIXES = (".weights.h5", ".weights.json", ".keras")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The weights that a constructor was asked for.

    Attributes:
        checkpoint: the catalogue's entry, or None where no tag was given.
        path: the user's own file, or None.
        source: `"auto"` or `"official"`.
    """

    checkpoint: catalogue.Checkpoint | None = None
    path: Path | None = None
    source: Any = "auto"

    def build(
        self,
        make: Callable[[], Model],
        token_interpolation: bool | Sequence[int] = False,
    ) -> Model:
        """Make a model and load what was asked for into it.

        All is loaded but a last layer of another number of classes, which starts anew,
        with a warning.

        Args:
            make: makes the model. Its initial weights are not drawn if others come.
            token_interpolation: `resize_tokens` of `port_weights`.

        Raises:
            ValueError: if the weights do not fit the model otherwise.
            OSError: if they cannot be had.
        """
        path, name = self.path, ""
        if self.checkpoint is not None:
            size = self.checkpoint.resolution
            name = f"{self.checkpoint.constructor} {self.checkpoint.tag!r}"
            name += f" ({size} x {size} pixels)"
        elif path is None:
            return make()
        # Made first: what is wrong with the model is said before a byte is fetched.
        with undrawn():
            model = make()
        if self.checkpoint is not None:
            path = cache.ensure_source(self.checkpoint, self.source)
        assert path is not None
        try:
            skipped = load_weights_file(
                model, path, name=name, token_interpolation=token_interpolation
            )
        except ValueError as error:
            if self.checkpoint is not None:
                error.add_note(
                    f"The weights {name} were read from {path}. "
                    + cache.advice_to_clear(self.checkpoint)
                )
            raise
        if skipped:
            classifier: Any = model.get_layer(CLASSIFIER)
            kernel = classifier.kernel
            kernel.assign(classifier.kernel_initializer(kernel.shape, kernel.dtype))
        return model


def resolve(
    constructor: str, weights: str | os.PathLike | None, source: str = "auto"
) -> Pretrained:
    """Decide between no weights, a tag and a file, before a model is built.

    Raises:
        ValueError: if `weights` is neither a known tag nor a file.
    """
    if source not in ("auto", "official"):
        raise ValueError(
            f"`source` must be 'auto' or 'official'. Received: source={source!r}"
        )
    if weights is None:
        return Pretrained()
    if isinstance(weights, str) and weights in catalogue.list_weights(constructor):
        return Pretrained(catalogue.find(constructor, weights), source=source)
    path = Path(weights)
    if not path.is_file():
        raise ValueError(
            f"{_why_nothing_is_found(constructor, weights)} `weights` must be None, "
            f"the path of a file, or a tag of {constructor}: "
            f"{catalogue.list_weights(constructor) or 'none are published'}. "
            f"Received: weights={os.fspath(weights)!r}"
        )
    return Pretrained(path=path)


def _why_nothing_is_found(constructor: str, weights: str | os.PathLike) -> str:
    text, tags = os.fspath(weights), catalogue.list_weights(constructor)
    if Path(text).is_dir():
        return "A folder is no weights."
    if not isinstance(weights, str) or len(Path(text).parts) > 1 or "." in text:
        return "No such file."
    return f"No such weights.{question(text, tags)}"


def load_weights_file(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    name: str = "",
    token_interpolation: bool | Sequence[int] = False,
) -> bool:
    """Load a file of Keras, or a checkpoint in a known naming, into a model.

    A classifier of another width is left aside, with a warning. So is, in checkpoints,
    a first convolution for three channels adapted to a model of others.

    Args:
        model: a model of this library.
        path: ends in `.weights.h5`, `.weights.json` or `.keras`, or is whatever
            `read_checkpoint` reads.
        name: what messages call the weights; the file's name where it is empty.
        token_interpolation: `resize_tokens` of `port_weights`.

    Returns:
        Whether the classifier was left aside.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no readable checkpoint, or does not fit the model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`weights` names no file. Received: weights={os.fspath(path)!r}"
        )
    classes, load = _open(model, path, token_interpolation)
    skip = classes is not None and classes != model.output_shape[-1]
    try:
        load(skip)
    except PortingError as error:
        raise ValueError(
            f"The weights {name or path.name} do not fit this model for images of "
            f"shape {model.input_shape[1:]}. Models that mix tokens by matrices, or "
            "have learned positions, are tied to one image size; "
            "`token_interpolation=True` resizes these, without a promise of accuracy. "
            f"{error}"
        ) from error
    if skip:
        warnings.warn(
            f"Loaded the weights {name or path.name} except the last layer, which has "
            f"{classes} classes there and {model.output_shape[-1]} here and starts "
            "anew.",
            stacklevel=2,
        )
    return skip


def classes_in(model: keras.Model, path: Path) -> int | None:
    """The number of classes in a file, or None where it or the model has no head.

    Args:
        model: that the file is for, up to the number of classes.
        path: as in `load_weights_file`.

    Raises:
        ValueError: if it is no readable checkpoint in a naming known for the model.
    """
    return _open(model, path, False)[0]


def _open(
    model: keras.Model, path: Path, token_interpolation: bool | Sequence[int]
) -> tuple[int | None, Callable[[bool], Any]]:
    """The number of classes in a file, and what loads it with or without them."""
    if path.name.endswith(KERAS_SUFFIXES):
        classes = keras_files.classes(model, path, CLASSIFIER)
        changes: dict[str, None] = {}
        if token_interpolation is True:
            token_interpolation = keras_files.image_size(path) or True
        resize = token_resizer(model, token_interpolation, changes)

        def load(skip: bool) -> None:
            classifier = model.get_layer(CLASSIFIER) if skip else None
            keras_files.load(model, path, classifier, resize)
            for change in changes:
                warnings.warn(change, stacklevel=3)

        return classes, load
    state_dict = read_checkpoint(path)
    return classifier_width(model, state_dict), lambda skip: port_weights(
        model,
        state_dict,
        skip_classifier=skip,
        resize_tokens=token_interpolation,
        adapt_channels=True,
    )
