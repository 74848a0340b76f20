"""Images and labels as a classifier is given them, in worker processes too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.data.sources import Source
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import ImageError, load_image

if TYPE_CHECKING:
    from PIL import Image


class ImageReader:
    """Reads image files and prepares them for a model.

    Args:
        description: of the model's images.
    """

    def __init__(self, description: ImageDescription) -> None:
        self._description = description

    def __call__(
        self, files: Sequence[Path]
    ) -> list[tuple[str, np.ndarray | None, str]]:
        """`(name, image or None, why there is none)` of each file."""
        found = []
        for file in files:
            try:
                image = self._description.prepare(load_image(file))
            except (ImageError, OSError, MemoryError) as error:
                found.append((str(file), None, str(error) or type(error).__name__))
            else:
                found.append((str(file), image, ""))
        return found


def with_classes(source: Source, class_names: Sequence[str]) -> Source:
    """A source whose labels count in a longer or otherwise ordered list of classes.

    Raises:
        DataError: if a class of the source is not in the list.
    """
    names = tuple(class_names)
    if source.class_names == names:
        return source
    outside = [name for name in source.class_names if name not in names]
    if outside:
        raise DataError(
            f"The data has classes that are not in the list: {outside[:5]}. "
            f"Received: class_names={names[:5]}"
        )
    return _WithClasses(source, names)


class _WithClasses(Source):
    def __init__(self, source: Source, class_names: tuple[str, ...]) -> None:
        places = {name: place for place, name in enumerate(class_names)}
        self._source = source
        self.class_names = class_names
        order = np.array([places[name] for name in source.class_names], "int64")
        self.labels = order[source.labels]

    def name(self, index: int) -> str:
        return self._source.name(index)

    def content(self, index: int) -> bytes:
        return self._source.content(index)

    def load(self, index: int) -> Image.Image:
        return self._source.load(index)
