"""Pictures of four quadrants, one of which decides, and models trained on them."""

from typing import Any

import keras
import numpy as np

from tests.small_models import build_small

SIZE = 128
#: The colour of each class' square.
_COLOURS = np.array(
    [[2, -1, -1], [-1, 2, -1], [-1, -1, 2], [1.5, 1.5, -1.5]], "float32"
)
CLASSES = len(_COLOURS)
NAMES = ("red", "green", "blue", "yellow")


def draw(contents: np.ndarray, seed: int, size: int = SIZE) -> np.ndarray:
    """Images `(number, size, size, 3)` with a square under noise in each quadrant.

    Args:
        contents: int `(number, 4)`. The class of each square, in rows from the top
            left; -1 for a grey one, darker or brighter.
        seed: of the noise and the greys.
        size: height and width of an image, in pixels.
    """
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.4, (len(contents), size, size, 3)).astype("float32")
    side = size // 2
    margin = side // 8
    for image, squares in zip(images, contents, strict=True):
        for quadrant, label in enumerate(squares):
            top, left = side * (quadrant // 2), side * (quadrant % 2)
            colour = rng.uniform(-2, 2) if label < 0 else _COLOURS[label]
            image[
                top + margin : top + side - margin, left + margin : left + side - margin
            ] += colour
    return images


def pictures(
    number: int, seed: int, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of one coloured square and three grey ones, classes, and quadrants."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, number)
    places = rng.integers(0, 4, number)
    contents = np.full((number, 4), -1)
    contents[np.arange(number), places] = classes
    return draw(contents, seed, size), classes, places


def colourful(
    number: int, seed: int, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of a square of each class, one class of each, and its quadrant."""
    rng = np.random.default_rng(seed)
    contents = rng.permuted(np.tile(np.arange(CLASSES), (number, 1)), axis=1)
    places = rng.integers(0, 4, number)
    return draw(contents, seed, size), contents[np.arange(number), places], places


def trained(
    family: str,
    epochs: int = 6,
    number: int = 512,
    size: int = SIZE,
    **arguments: Any,
) -> Any:
    """A small model of a family that says which classes are in a picture.

    There are none to four, so that no amount of one is the usual: a model that always
    saw one square would be at its surest with just that, and its gradients 0.
    """
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    contents = rng.integers(-1, CLASSES, (number, 4))
    labels = (contents[:, :, np.newaxis] == np.arange(CLASSES)).any(axis=1)
    model: Any = build_small(
        family,
        (size, size, 3),
        classes=CLASSES,
        classifier_activation="sigmoid",
        **arguments,
    )
    model.compile(
        keras.optimizers.AdamW(3e-3, weight_decay=0.01), "binary_crossentropy"
    )
    model.fit(
        draw(contents, seed=0, size=size),
        labels.astype("float32"),
        batch_size=32,
        epochs=epochs,
        verbose=0,
    )
    return model


def quadrants_of(maps: np.ndarray) -> np.ndarray:
    """The quadrant of the largest value of each map `(batch, height, width)`."""
    number, height, width = maps.shape
    largest = maps.reshape(number, -1).argmax(axis=1)
    rows, columns = np.divmod(largest, width)
    return 2 * (rows >= height // 2) + (columns >= width // 2)
