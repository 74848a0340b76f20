"""Maps over images: how much each place has to do with an answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from keras_metaformer.explain.results import (
    SEQUENTIAL,
    Result,
    grid_of_pictures,
    needing,
    short,
)

_COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class HeatMaps(Result):
    """Maps of one method over images.

    Attributes:
        images: uint8 `(batch, height, width, 3)`, to be looked at.
        maps: float32 `(batch, height, width)` from 0 to 1, the largest of each image,
            at the size of the image; all 0 where nothing speaks for the target.
        coarse: float32 `(batch, rows, columns)`, as they were computed.
        method: what computed them.
        layer: path of the layer whose map it is, or None.
        labels: what was explained, image by image.
    """

    reading: ClassVar[str] = (
        "Bright places speak for the answer that stands above the picture. The map has "
        "one value for each place of the layer's map, stretched to the image: its "
        "edges are not those of things. It shows where, not what the model sees there, "
        "and nothing of what would change its answer."
    )

    images: np.ndarray
    maps: np.ndarray
    coarse: np.ndarray
    method: str
    layer: str | None
    labels: tuple[str, ...]

    @property
    def size(self) -> tuple[float, float]:
        return size_of_overlays(len(self.images))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"maps": self.maps, "coarse": self.coarse}

    def draw(self, figure: Any) -> None:
        draw_overlays(figure, self.images, self.maps, self.labels)


def size_of_overlays(number: int) -> tuple[float, float]:
    """Width and height in inches of what `draw_overlays` draws of so many images."""
    columns = min(number, _COLUMNS)
    return max(2.0 * columns, 3.0), 2.3 * -(-number // _COLUMNS)


def draw_overlays(
    figure: Any, images: np.ndarray, maps: np.ndarray, labels: Sequence[str]
) -> None:
    """Draw maps over their images, each below its label.

    Args:
        figure: an empty figure of matplotlib.
        images: uint8 `(batch, height, width, 3)`.
        maps: float `(batch, height, width)` from 0 to 1.
        labels: what stands above each image.
    """
    grid = grid_of_pictures(figure, len(images), min(len(images), _COLUMNS))
    for axes, picture, heat, label in zip(grid, images, maps, labels, strict=True):
        overlay(axes, picture, heat)
        axes.set_title(short(label), fontsize=8, pad=3)


def overlay(axes: Any, picture: np.ndarray, heat: np.ndarray) -> None:
    """Draw a map over a picture, as `laid_over` makes it, without axes."""
    axes.imshow(laid_over(picture, heat))
    axes.set_axis_off()


def laid_over(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map over a picture, of which brightness alone is left.

    Args:
        picture: uint8 `(height, width, 3)`.
        heat: float `(height, width)` from 0 to 1.

    Returns:
        uint8 `(height, width, 3)`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    with needing("matplotlib", "Pictures"):
        import matplotlib

    grey = picture.mean(axis=-1, keepdims=True) / 255
    colours = matplotlib.colormaps[SEQUENTIAL](heat)[..., :3]
    return np.rint(255 * (0.45 * grey + 0.55 * colours)).astype("uint8")


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps at another size, linear between the middles of their places.

    Args:
        maps: float `(batch, rows, columns)`.
        size: height and width.

    Returns:
        float32 `(batch, height, width)`.
    """
    rows = _interpolation(maps.shape[1], size[0])
    columns = _interpolation(maps.shape[2], size[1])
    return np.einsum("yr,brc,xc->byx", rows, maps, columns, optimize=True).astype(
        "float32"
    )


def _interpolation(before: int, after: int) -> np.ndarray:
    """Weights `(after, before)` of linear interpolation."""
    places = (np.arange(after) + 0.5) * before / after - 0.5
    places = np.clip(places, 0, before - 1)
    left = np.minimum(places.astype(int), max(before - 2, 0))
    weights = np.zeros((after, before))
    weights[np.arange(after), left] = 1 - (places - left)
    weights[np.arange(after), np.minimum(left + 1, before - 1)] += places - left
    return weights
