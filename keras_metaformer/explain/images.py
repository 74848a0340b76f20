"""Images as a model takes them, and as people look at them."""

import os
from typing import Any

import numpy as np

from keras_metaformer.explain.probe import Probe
from keras_metaformer.features.embedding import is_batch, preparing
from keras_metaformer_lite.description import ImageDescription


def prepared(probe: Probe, images: Any, transform: Any = None) -> np.ndarray:
    """Images as the model takes them.

    Args:
        probe: of the model.
        images: float array `(batch, height, width, channels)`, which is taken as it is;
            or a path, a Pillow image, a uint8 array `(height, width, 3)` of any size,
            or a sequence of such, which are prepared as the model's
            `image_description` says.
        transform: callable from such an image to what the model takes, instead.

    Returns:
        float32 array `(batch, height, width, channels)`.

    Raises:
        ValueError: if it is not known how to prepare them, or there are none.
        ImageError: if one cannot be read.
    """
    if is_batch(images):
        return np.asarray(images, "float32")
    transform = transform or preparing(probe.description, images)
    is_one = isinstance(images, (str, os.PathLike)) or not hasattr(images, "__len__")
    is_array = isinstance(images, np.ndarray) and images.ndim == 3
    several: Any = images
    each = [images] if is_one or is_array else list(several)
    if not each:
        raise ValueError("Expected at least one image. Received: images=[]")
    return np.stack([np.asarray(transform(image), "float32") for image in each])


def pixels(images: np.ndarray, description: ImageDescription | None) -> np.ndarray:
    """Images that a model takes, to be looked at.

    Args:
        images: float `(batch, height, width, channels)`.
        description: what the model knows of them. None if it knows nothing: values from
            0 to 255 or to 1 are taken for pixels then, and others are stretched.

    Returns:
        uint8 array `(batch, height, width, 3)`.
    """
    images = np.asarray(images, "float32")
    smallest, largest = float(images.min()), float(images.max())
    if description is not None and not description.includes_preprocessing:
        transform = description.transform
        std, mean = (np.array(v, "float32") for v in (transform.std, transform.mean))
        images = images * std + mean
        images = images * 255
    elif smallest < 0:
        images = (images - smallest) / max(largest - smallest, 1e-12) * 255
    elif description is None and largest <= 1:
        images = images * 255
    if images.shape[-1] not in (3, 1):
        images = images.mean(axis=-1, keepdims=True)
    images = np.broadcast_to(images, (*images.shape[:3], 3))
    return np.clip(np.rint(images), 0, 255).astype("uint8")
