"""`preprocess_input` and `decode_predictions`, shared by the family modules."""

import warnings
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_metaformer.arrays import to_numpy
from keras_metaformer.models.families import Family
from keras_metaformer.models.pixel_range import warn_of_unexpected_pixels
from keras_metaformer_lite.classes import DATASETS, class_names, dataset_of


class Preprocessing(Protocol):
    """The type of every family's `preprocess_input`."""

    def __call__(self, x: Any, data_format: str | None = None) -> Any: ...


def preprocessing(family: Family) -> Preprocessing:
    """The `preprocess_input` of a family's module."""

    def preprocess_input(x: Any, data_format: str | None = None) -> Any:
        """Pixels 0..255 to what the published weights expect.

        Args:
            x: NumPy array or tensor `(..., height, width, 3)`, RGB.
            data_format: None or `"channels_last"`.

        Returns:
            Float array or tensor of the same shape.

        Raises:
            ValueError: for channels first, or another number of channels than three.
        """
        return normalize(x, family.mean, family.std, data_format)

    preprocess_input.__module__ = f"keras_metaformer.applications.{family.module}"
    preprocess_input.__qualname__ = "preprocess_input"
    return preprocess_input


def normalize(
    images: Any, mean: tuple[float, ...], std: tuple[float, ...], data_format: Any
) -> Any:
    """`(images / 255 - mean) / std` for images `(..., height, width, 3)`.

    Args:
        images: NumPy array or tensor of pixels 0..255, channels last. Where the first
            image's values show that they are something else, a warning says so.
        mean: per channel, of pixels 0..1.
        std: per channel, of pixels 0..1.
        data_format: None or `"channels_last"`.

    Returns:
        What came in, as float32 (or the float dtype that it had).

    Raises:
        ValueError: for channels first, or another number of channels than three.
    """
    if data_format not in (None, "channels_last"):
        raise ValueError(
            "Images are channels last here: expected data_format=None or "
            f"'channels_last'. Received: data_format={data_format!r}"
        )
    if len(images.shape) < 3 or images.shape[-1] != len(mean):
        raise ValueError(
            f"Expected images of shape (..., height, width, {len(mean)}). "
            f"Received: shape={tuple(images.shape)}"
        )
    # Seen from here: the family's `preprocess_input`, then who called that.
    warn_of_unexpected_pixels(images, "pixels", stacklevel=3)
    scale = [1.0 / (255.0 * value) for value in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    if isinstance(images, np.ndarray):
        if not np.issubdtype(images.dtype, np.floating):
            images = images.astype("float32")
        return images * np.array(scale, images.dtype) + np.array(offset, images.dtype)
    if "float" not in keras.backend.standardize_dtype(images.dtype):
        images = ops.cast(images, "float32")
    return images * ops.array(scale, images.dtype) + ops.array(offset, images.dtype)


def decode_predictions(predictions: Any, top: int = 5) -> list[list[tuple]]:
    """The `top` classes of each image, best first.

    Args:
        predictions: float array `(batch, classes)` of probabilities; a warning says so
            if they are logits. 1000 classes are ImageNet-1k's; 21841, 21843 and 11221
            are ImageNet-21k's in checkpoints of sail-sg, Google and MIIL.
        top: int. How many classes to give.

    Returns:
        For each image a list of `(WordNet id, name, score)`.

    Raises:
        ValueError: if the shape is another, or `top` is not positive.
    """
    scores = to_numpy(predictions)
    dataset = dataset_of(scores.shape[-1]) if scores.ndim == 2 else None
    if dataset is None:
        raise ValueError(
            "`decode_predictions` expects predictions of shape (batch, classes) with "
            f"classes one of {sorted(DATASETS.values())}. "
            f"Received: shape={scores.shape}"
        )
    if top < 1:
        raise ValueError(f"`top` must be positive. Received: top={top}")
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        warnings.warn(
            "`decode_predictions` expected probabilities. Received: logits; the order "
            "of the classes is the same, the scores are no probabilities. Pass them "
            "through a softmax, or build the model with it.",
            stacklevel=2,
        )
    names = class_names(dataset)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [
        [(*names[index], float(row[index])) for index in indices]
        for row, indices in zip(scores, best, strict=True)
    ]
