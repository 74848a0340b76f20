"""Images and labels as a classifier is given them, in worker processes too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        loads = ((str(file), partial(load_image, file)) for file in files)
        return read_each(self._description, loads)


def read_each(
    description: ImageDescription,
    loads: Iterable[tuple[str, Callable[[], Image.Image]]],
) -> list[tuple[str, np.ndarray | None, str]]:
    """Read images and prepare them for a model.

    Args:
        description: of the model's images.
        loads: the name of each image, and what reads it.

    Returns:
        `(name, image or None, why there is none)` of each.
    """
    found = []
    for name, load in loads:
        try:
            image = description.prepare(load())
        except (ImageError, DataError, OSError, MemoryError) as error:
            found.append((name, None, str(error) or type(error).__name__))
        else:
            found.append((name, image, ""))
    return found


def table_row(
    name: str,
    values: np.ndarray,
    class_names: Sequence[str] | None,
    top: int | None,
    embeddings: bool,
) -> dict[str, Any]:
    """What a table says of an image, by column.

    Args:
        name: of the image.
        values: `(classes,)` probabilities, or an embedding.
        class_names: one per class, or None for their numbers.
        top: of how many classes, the most probable ones; None for all.
        embeddings: bool. What `values` is.
    """
    # Bytes of a name that are no UTF-8 are written as escapes.
    row: dict[str, Any] = {
        "image": name.encode("utf-8", "backslashreplace").decode("utf-8")
    }
    if embeddings:
        return row | {f"e{place}": float(each) for place, each in enumerate(values)}
    names = class_names or [str(place) for place in range(len(values))]
    if top is None:
        # Names of ImageNet's classes occur twice.
        unique = len(set(names)) == len(names)
        columns = names if unique else [f"{i} {each}" for i, each in enumerate(names)]
        return row | {
            each: float(value) for each, value in zip(columns, values, strict=True)
        }
    best = (-values).argsort(kind="stable")[:top]
    for rank, place in enumerate(best, 1):
        row[f"class_{rank}"] = names[place]
        row[f"probability_{rank}"] = float(values[place])
    return row


def as_table(rows: Sequence[dict[str, Any]]) -> Any:
    """Rows of `table_row`, at least one, as a table of pyarrow's.

    Values are float32, as they were computed.
    """
    import pyarrow as pa

    schema = pa.schema(
        [
            (name, pa.float32() if isinstance(value, float) else pa.string())
            for name, value in rows[0].items()
        ]
    )
    return pa.Table.from_pylist(list(rows), schema)


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
