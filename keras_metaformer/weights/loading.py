"""From the `weights` argument of a constructor to loaded weights."""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers import TokenLinear
from keras_metaformer.models import registry
from keras_metaformer.names import question
from keras_metaformer.weights import cache, catalogue
from keras_metaformer.weights.porting import CLASSIFIER, classifier_width, port_weights
from keras_metaformer.weights.readers import read_checkpoint
from keras_metaformer.weights.structure import WeightSlot, weight_slots
from keras_metaformer.weights.token_interpolation import resize_token_weight

#: Endings of the files that Keras itself writes and reads.
KERAS_SUFFIXES = (".weights.h5", ".weights.json")


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

    def preferred(self, name: str, default: Any) -> Any:
        """What the checkpoint wants for `name` (`"classes"`, `"mean"`, ...)."""
        return default if self.checkpoint is None else getattr(self.checkpoint, name)

    def load_into(self, model: keras.Model, token_interpolation: bool) -> None:
        """Load what was asked for, all but another number of classes' last layer.

        Args:
            model: the model that the constructor built.
            token_interpolation: whether token-mixing matrices are resized.

        Raises:
            ValueError: if the weights do not fit the model otherwise.
            OSError: if they cannot be had.
        """
        if self.path is not None:
            if token_interpolation:
                raise ValueError(
                    "`token_interpolation` works for published weights, given by a "
                    "tag: a file does not say for which image size it is. "
                    f"Received: weights={os.fspath(self.path)!r}"
                )
            load_weights_file(model, self.path)
        elif self.checkpoint is not None:
            _load_checkpoint(model, self.checkpoint, self.source, token_interpolation)


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


def load_weights_file(model: keras.Model, path: str | os.PathLike) -> None:
    """Load a `.weights.h5` file, or a checkpoint in a known naming, into a model.

    A checkpoint's classifier of another width is left aside, with a warning.

    Args:
        model: a model of this library.
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no readable checkpoint, or does not fit the model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`weights` names no file. Received: weights={os.fspath(path)!r}"
        )
    if path.name.endswith(KERAS_SUFFIXES):
        model.load_weights(path)
        return
    state_dict = read_checkpoint(path)
    classes = classifier_width(model, state_dict)
    skip = classes is not None and classes != model.output_shape[-1]
    port_weights(model, state_dict, skip_classifier=skip)
    if skip:
        _warn_of_skipped_classifier(path.name, classes, model)


def _load_checkpoint(
    model: keras.Model,
    checkpoint: catalogue.Checkpoint,
    source: Any,
    token_interpolation: bool,
) -> None:
    """Load published weights, from the cache where they are there already."""
    path = cache.ensure_converted(
        checkpoint,
        lambda file, target: convert_checkpoint(checkpoint, file, target),
        source,
    )
    published = _build(checkpoint)
    published.load_weights(path)
    _copy_weights(published, model, checkpoint, token_interpolation)


def convert_checkpoint(
    checkpoint: catalogue.Checkpoint, file: Path, target: Path
) -> None:
    """Convert a published file into the `.weights.h5` of its whole model.

    Args:
        checkpoint: what the file is.
        file: in any layout that `read_checkpoint` reads.
        target: where to write, ending in `.weights.h5`.
    """
    model = _build(checkpoint)
    port_weights(model, read_checkpoint(file))
    model.save_weights(target)


def _build(checkpoint: catalogue.Checkpoint) -> keras.Model:
    size = checkpoint.resolution
    return registry.get(checkpoint.constructor).constructor(
        weights=None, classes=checkpoint.classes, input_shape=(size, size, 3)
    )


def _copy_weights(
    published: keras.Model,
    model: keras.Model,
    checkpoint: catalogue.Checkpoint,
    token_interpolation: bool,
) -> None:
    """Copy every published weight to its place; only the head's may have none."""
    targets = weight_slots(model)
    headless = CLASSIFIER not in {layer.name for layer in model.layers}
    problems: list[str] = []
    pairs: list[tuple[Any, np.ndarray]] = []
    skipped = resized = False
    sources = weight_slots(published)
    problems += [
        f"{path}: not in the weights" for path in targets if path not in sources
    ]
    for path, slot in sources.items():
        root = path.split("/")[0]
        target = targets.get(path)
        if target is None:
            if not (headless and (root == CLASSIFIER or root.startswith("head_"))):
                problems.append(f"{path}: not in the model")
            continue
        array = to_numpy(slot.variable)
        if token_interpolation and isinstance(slot.layer, TokenLinear):
            array = _resized(slot, target, array)
            resized |= array.shape != tuple(slot.variable.shape)
        if array.shape == tuple(target.variable.shape):
            pairs.append((target.variable, array))
        elif root == CLASSIFIER:
            skipped = True
        else:
            problems.append(
                f"{path}: shape {array.shape} in the weights, "
                f"{tuple(target.variable.shape)} in the model"
            )
    if problems:
        size = f"{checkpoint.resolution} x {checkpoint.resolution}"
        raise ValueError(
            f"The weights {checkpoint.tag!r} of {checkpoint.constructor} do not fit "
            f"this model: they are for images of {size} pixels and the architecture's "
            "own settings. Models that mix tokens by matrices are tied to that size; "
            "for MLP-Mixer, ResMLP and gMLP `token_interpolation=True` resizes the "
            "matrices, without a promise of accuracy. Received a model for images of "
            f"shape {model.input_shape[1:]}, with these differences:\n  "
            + "\n  ".join(problems)
        )
    for variable, array in pairs:
        variable.assign(array)
    if resized:
        warnings.warn(
            f"Resized the token-mixing matrices of {checkpoint.constructor} "
            f"{checkpoint.tag!r} from images of {checkpoint.resolution} pixels to "
            f"images of shape {model.input_shape[1:]}: accuracy is not promised.",
            stacklevel=2,
        )
    if skipped:
        name = f"{checkpoint.constructor} {checkpoint.tag!r}"
        _warn_of_skipped_classifier(name, checkpoint.classes, model)


def _resized(slot: WeightSlot, target: WeightSlot, array: np.ndarray) -> np.ndarray:
    """A weight of `TokenLinear` for the target's map, if that is of another size."""

    def grids(name: str) -> tuple | None:
        before, after = getattr(slot.layer, name), getattr(target.layer, name)
        return None if before is None else (tuple(before), tuple(after))

    return resize_token_weight(array, grids("input_grid"), grids("output_grid"))


def _warn_of_skipped_classifier(
    name: str, classes: int | None, model: keras.Model
) -> None:
    warnings.warn(
        f"Loaded the weights {name} except the last layer, which has {classes} classes "
        f"there and {model.output_shape[-1]} here and starts at random.",
        stacklevel=2,
    )
