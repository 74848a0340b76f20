"""Photographs that come with the package, to try models on."""

import itertools
from pathlib import Path

import numpy as np

from keras_metaformer_lite.images import load_image

_FOLDER = Path(__file__).with_name("photographs")
#: Part of the largest cut-out of the asked shape, so that there is room to move it.
_ZOOM = 0.8


def photograph_files() -> list[Path]:
    """The photographs' JPEG files, sorted by name.

    Source:
        A cat by Stéfan van der Walt and a cup of coffee by Rachel Michetti (CC0), a
        rocket by SpaceX (public domain); all three come with scikit-image.
    """
    return sorted(_FOLDER.glob("*.jpg"))


def example_photographs(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A dozen different images: the photographs, cut left and right, and mirrored.

    Args:
        height: in pixels.
        width: in pixels.
        channels: 3 for RGB, 1 for grey.

    Returns:
        float32 array `(12, height, width, channels)` of whole pixels 0..255.

    Raises:
        ValueError: if there are other channels than a photograph has.
    """
    from PIL import Image

    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise ValueError(
            f"`channels` must be 1 or 3, as photographs have. Received: {channels=}"
        )
    photographs = [
        load_image(file).convert(modes[channels]) for file in photograph_files()
    ]
    images = []
    # The photographs innermost: the first images are of different ones.
    for mirrored, side in itertools.product((False, True), (0.0, 1.0)):
        for photograph in photographs:
            scale = _ZOOM * min(photograph.width / width, photograph.height / height)
            left = side * (photograph.width - scale * width)
            top = (photograph.height - scale * height) / 2
            box = (left, top, left + scale * width, top + scale * height)
            image = photograph.resize((width, height), Image.Resampling.BICUBIC, box)
            pixels = np.asarray(image, "float32").reshape(height, width, channels)
            images.append(pixels[:, ::-1] if mirrored else pixels)
    return np.stack(images)
