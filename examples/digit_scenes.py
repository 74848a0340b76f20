"""Scenes of real handwritten digits, with the boxes and the masks of the digits.

Used by detection.py and segmentation.py; shows nothing by itself.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_metaformer.data.digits import load_digits

CLASSES = 10
#: Digits of one scene.
MOST = 3
#: Grey value from which a pixel is of the digit.
INK = 80


class Scenes(NamedTuple):
    """Scenes of one part of the data.

    Attributes:
        images: uint8 `(number, size, size, 3)`.
        boxes: float32 `(number, MOST, 4)`, left, top, right and bottom in pixels; -1
            where a scene has fewer digits.
        labels: float32 `(number, MOST)`, 0 to 9; -1 where there is no digit.
        masks: uint8 `(number, size, size)`, 0 for the background, else the digit + 1.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def compose(
    digits: np.ndarray, labels: np.ndarray, number: int, size: int, seed: int
) -> Scenes:
    """Scenes of one to three digits that do not touch, on noise, each in a colour.

    Args:
        digits: uint8 `(digits, height, width, 3)` to take from.
        labels: of these, 0 to 9.
        number: of scenes.
        size: height and width of a scene, in pixels.
        seed: of all that is random.
    """
    random = np.random.default_rng(seed)
    scenes = Scenes(
        random.integers(0, 70, (number, size, size, 3), dtype="uint8"),
        np.full((number, MOST, 4), -1, "float32"),
        np.full((number, MOST), -1, "float32"),
        np.zeros((number, size, size), "uint8"),
    )
    for index in range(number):
        taken = np.zeros((size, size), bool)
        for place in range(random.integers(1, MOST + 1)):
            chosen = random.integers(len(digits))
            side = int(random.integers(size // 4, size // 2))
            ink = np.asarray(Image.fromarray(digits[chosen]).resize((side, side)))[
                ..., 0
            ]
            left, top = random.integers(0, size - side + 1, 2)
            area = (slice(top, top + side), slice(left, left + side))
            is_ink = ink >= INK
            if taken[area].any():
                continue  # the scene has one digit less
            taken[area] = True
            colour = random.integers(150, 256, 3)
            picture = scenes.images[index][area]
            drawn = (ink[..., None] / 255 * colour).astype("uint8")
            np.maximum(picture, drawn, out=picture)
            rows, columns = np.flatnonzero(is_ink.any(1)), np.flatnonzero(is_ink.any(0))
            scenes.boxes[index, place] = (
                left + columns[0],
                top + rows[0],
                left + columns[-1] + 1,
                top + rows[-1] + 1,
            )
            scenes.labels[index, place] = labels[chosen]
            scenes.masks[index][area][is_ink] = labels[chosen] + 1
    return scenes


def digit_scenes(training: int, held_out: int, size: int = 96) -> tuple[Scenes, Scenes]:
    """Scenes to train on and scenes of other digits to measure on.

    Args:
        training: number of scenes.
        held_out: number of scenes.
        size: height and width in pixels.
    """
    digits = load_digits()
    return (
        compose(digits.train_images, digits.train_labels, training, size, seed=0),
        compose(digits.test_images, digits.test_labels, held_out, size, seed=1),
    )
