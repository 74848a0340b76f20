"""Scikit-learn's 1,797 handwritten digits, as images for a small model."""

from typing import Any, NamedTuple

import numpy as np


class Digits(NamedTuple):
    """Images `(number, size, size, 3)`, uint8 0..255; labels `(number,)`, int64."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(size: int = 32, test_fraction: float = 0.2, seed: int = 0) -> Digits:
    """The digits, upscaled, in a training and a held-out part.

    The originals are 8x8 grey values from 0 to 16. They come with scikit-learn:
    nothing is downloaded. Every class is held out in the same proportion.

    Args:
        size: height and width to upscale to, bilinearly; at least 8.
        test_fraction: part of the images that is held out, between 0 and 1.
        seed: seed of the split.

    Raises:
        ValueError: if `size` or `test_fraction` is out of range.
    """
    if size < 8:
        raise ValueError(f"`size` must be at least 8. Received: size={size}")
    if not 0 < test_fraction < 1:
        raise ValueError(
            "`test_fraction` must lie between 0 and 1. "
            f"Received: test_fraction={test_fraction}"
        )
    from PIL import Image
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    # scikit-learn's annotations do not fit what these two functions return.
    digits: Any = datasets.load_digits()
    images = np.stack(
        [
            np.asarray(
                Image.fromarray(image.astype("float32") * (255 / 16)).resize(
                    (size, size), Image.Resampling.BILINEAR
                )
            )
            for image in digits.images
        ]
    )
    images = np.repeat(np.rint(images).astype("uint8")[..., None], 3, axis=-1)
    split: list[Any] = train_test_split(
        images,
        digits.target.astype("int64"),
        test_size=test_fraction,
        random_state=seed,
        stratify=digits.target,
    )
    train_images, test_images, train_labels, test_labels = split
    return Digits(train_images, train_labels, test_images, test_labels)
