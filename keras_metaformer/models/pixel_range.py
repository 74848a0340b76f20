"""What the range of an image's values tells: one that a model does not expect."""

import warnings
from typing import Any

import numpy as np

from keras_metaformer.arrays import values_of

#: Normalised pixels lie within three or so of 0.
_LARGEST_NORMALISED = 20.0


def warn_of_unexpected_pixels(images: Any, expected: str, stacklevel: int = 2) -> None:
    """Warn if the first image's values are not those that were expected.

    The text of each warning is always the same, so that Python shows it once.

    Args:
        images: array or tensor `(..., height, width, channels)`; anything else, and
            what has no values yet, is passed over.
        expected: `"pixels"`, which go from 0 to 255, or `"normalised"`, which
            `preprocess_input` has made of such.
        stacklevel: as for `warnings.warn`, seen from the caller.
    """
    shape = getattr(images, "shape", ())
    if len(shape) < 3 or None in tuple(shape) or 0 in tuple(shape):
        return
    first = images
    while len(first.shape) > 3:
        first = first[0]
    values = values_of(first)
    if values is None or not np.issubdtype(values.dtype, np.number):
        return
    found = _unexpected(values, expected)
    if found:
        warnings.warn(found, stacklevel=stacklevel + 1)


def _unexpected(values: np.ndarray, expected: str) -> str | None:
    smallest, largest = float(values.min()), float(values.max())
    if expected == "normalised":
        if smallest < 0 or largest <= _LARGEST_NORMALISED:
            return None
        return (
            "Expected normalised images: pass them through `preprocess_input`, or "
            "build the model with `include_preprocessing=True`. Received: values that "
            "look like pixels from 0 to 255."
        )
    if np.issubdtype(values.dtype, np.integer):
        return None
    if smallest < 0:
        return (
            "Expected pixels from 0 to 255, which are normalised here. Received: "
            "values below 0, as of images that have been normalised before."
        )
    if 0 < largest <= 1:
        return (
            "Expected pixels from 0 to 255, which are normalised here. Received: "
            "values from 0 to 1; multiply them by 255."
        )
    return None
