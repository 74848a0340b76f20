"""Images with labels, by index: where training and evaluation read from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.images import (
    SUFFIXES,
    ImageError,
    decode_image,
    load_image,
    to_rgb,
)
from keras_metaformer_lite.names import question

if TYPE_CHECKING:
    from PIL import Image

_IMAGE_COLUMNS = ("image", "path", "file", "filename", "image_path", "filepath")
_LABEL_COLUMNS = ("label", "class", "target", "class_name", "category")
_PARTS = ("train", "training", "val", "valid", "validation", "test")
_SHOWN = 10


class Source:
    """Images with labels, by index. The base of every kind of data set.

    A source of your own has `class_names`, `labels`, `name`, `content` and `load`. It
    goes to worker processes as a pickle, so its class must stand in a module, and what
    is open must be opened in `load`.

    Attributes:
        class_names: one for each class; a label is a position in it.
        labels: int64 array `(number,)`.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def label(self, index: int) -> int:
        """The class of an image."""
        return int(self.labels[index])

    def name(self, index: int) -> str:
        """What messages call an image: its file, as a rule."""
        raise NotImplementedError(f"{type(self).__name__}.name")

    def content(self, index: int) -> bytes:
        """What two images have in common if they are the same."""
        raise NotImplementedError(f"{type(self).__name__}.content")

    def load(self, index: int) -> Image.Image:
        """An image as a Pillow image of mode `"RGB"`.

        Raises:
            ImageError: if it cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__}.load")

    def counts(self) -> np.ndarray:
        """The number of images of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Source:
        """Some of the images, in the order of the indices."""
        return _Subset(self, np.asarray(indices, "int64"))


class _Subset(Source):
    def __init__(self, source: Source, indices: np.ndarray) -> None:
        if isinstance(source, _Subset):
            source, indices = source._source, source._indices[indices]
        self._source, self._indices = source, indices
        self.class_names = source.class_names

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        return self._source.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        return self._source.name(int(self._indices[index]))

    def content(self, index: int) -> bytes:
        return self._source.content(int(self._indices[index]))

    def load(self, index: int) -> Image.Image:
        return self._source.load(int(self._indices[index]))


class FileSource(Source):
    """Image files, each with a label.

    Args:
        paths: of the files.
        labels: int array, a position in `class_names` for each.
        class_names: one for each class.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        labels: Any,
        class_names: Sequence[str],
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.class_names = tuple(class_names)
        self.labels = _checked_labels(labels, len(self.paths), self.class_names)

    def name(self, index: int) -> str:
        return self.paths[index]

    def content(self, index: int) -> bytes:
        return Path(self.paths[index]).read_bytes()

    def load(self, index: int) -> Image.Image:
        return load_image(self.paths[index])


class ArraySource(Source):
    """Images of one size in an array.

    Args:
        images: uint8 array `(number, height, width, 3)` or, grey, `(number, height,
            width)` or `(number, height, width, 1)`; 0..255.
        labels: int array `(number,)`.
        class_names: one for each class; `"0"`, `"1"`, ... where there are none.
    """

    def __init__(
        self, images: Any, labels: Any, class_names: Sequence[str] | None = None
    ) -> None:
        images = np.asanyarray(images)
        is_grey = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 1)
        if not (is_grey or (images.ndim == 4 and images.shape[-1] == 3)):
            raise DataError(
                "Images in an array must have shape (number, height, width, 3), or, "
                "grey, (number, height, width). "
                f"Received: images of shape {images.shape}"
            )
        if images.dtype != np.uint8:
            raise DataError(
                "Images in an array must be uint8, from 0 to 255. "
                f"Received: images of type {images.dtype}"
            )
        self.images = images
        labels = np.asarray(labels)
        if class_names is None and labels.size and labels.dtype.kind in "iu":
            class_names = tuple(map(str, range(int(labels.max()) + 1)))
        self.class_names = tuple(class_names or ())
        self.labels = _checked_labels(labels, len(images), self.class_names)

    def name(self, index: int) -> str:
        return f"image {index}"

    def content(self, index: int) -> bytes:
        return self.images[index].tobytes()

    def load(self, index: int) -> Image.Image:
        from PIL import Image

        pixels = self.images[index]
        if pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        return to_rgb(Image.fromarray(pixels))


def open_source(
    spec: Any,
    *,
    split: str | None = None,
    class_names: Sequence[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Source:
    """Open a data set.

    >>> images = np.zeros((4, 8, 8, 3), "uint8")
    >>> len(open_source((images, [0, 1, 0, 1])))
    4

    Args:
        spec: a folder of class folders; a `.csv`, `.tsv` or `.parquet` file with a
            column of paths, relative to the file, and one of labels; an `.npz` file
            with `images` and `labels`; `"tfds:NAME"` for a data set of TensorFlow
            Datasets; a pair of arrays `(images, labels)`; or a source.
        split: `"train"`, `"train[:90%]"`, ... of TensorFlow Datasets, or the name of a
            folder in the folder.
        class_names: the classes, in the order of the labels; those of another part of
            the same data, say. If left out they come from the data: names in the order
            of the alphabet, numbers in their own.
        image_column: of the table; one of `image`, `path`, `file`, ... if left out.
        label_column: likewise; `label`, `class`, `target`, ...
        data_dir: where TensorFlow Datasets keeps its data, if not where it does by
            itself.

    Raises:
        DataError: if there is no such data, or it is not of a kind that is known, or
            labels lie outside the classes.
        ImportError: if a package that the kind needs is missing.
    """
    if isinstance(spec, Source):
        if class_names is not None and tuple(class_names) != spec.class_names:
            raise DataError(
                f"The source has other classes: {some(spec.class_names)}. "
                f"Received: class_names={some(class_names)}"
            )
        return spec
    if isinstance(spec, (tuple, list)) and len(spec) == 2:
        return ArraySource(*spec, class_names=class_names)
    if not isinstance(spec, (str, os.PathLike)):
        raise DataError(
            "Data must be a folder, a .csv, .parquet or .npz file, 'tfds:NAME', a pair "
            f"of arrays (images, labels), or a source. Received: {type(spec).__name__}"
        )
    if isinstance(spec, str) and spec.startswith("tfds:"):
        from keras_metaformer_lite.data.tfds import TFDSSource

        source = TFDSSource(spec.removeprefix("tfds:"), split or "train", data_dir)
        return open_source(source, class_names=class_names)
    path = Path(spec)
    if path.is_dir():
        return _open_folder(path if split is None else path / split, class_names)
    if not path.is_file():
        raise DataError(
            "Expected a folder or a file with data; there is none. "
            f"Received: {str(path)!r}"
        )
    if split is not None:
        raise DataError(
            "`split` names a folder in a folder, or a part of a data set of TensorFlow "
            f"Datasets. Received: split={split!r} for {str(path)!r}"
        )
    kind = path.suffix.lower()
    if kind == ".npz":
        return _open_npz(path, class_names)
    if kind not in (".csv", ".tsv", ".parquet"):
        raise DataError(
            "Expected a folder of class folders, or a .csv, .tsv, .parquet or .npz "
            f"file. Received: {str(path)!r}"
        )
    return _open_table(path, class_names, image_column, label_column)


def split_source(source: Source, fraction: float, seed: int) -> tuple[Source, Source]:
    """A part for training and one that is held out, of every class in proportion.

    The same seed gives the same parts. A class of at least two images has one in each
    part.

    Args:
        source: the whole.
        fraction: part that is held out, between 0 and 1.
        seed: int, not negative.

    Raises:
        ValueError: if `fraction` is out of its range.
        DataError: if nothing would be held out, or nothing be left.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"The held-out part must be between 0 and 1. Received: fraction={fraction}"
        )
    random = np.random.default_rng((0x5B117, seed))
    training, validation = [], []
    for label in range(len(source.class_names)):
        members = random.permutation(np.flatnonzero(source.labels == label))
        count = round(fraction * len(members))
        if len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        validation.append(members[:count])
        training.append(members[count:])
    parts = [np.sort(np.concatenate([*part, []])) for part in (training, validation)]
    if not all(map(len, parts)):
        raise DataError(
            "Too few images to hold some out. "
            f"Received: {len(source)} images, fraction={fraction}"
        )
    return source.subset(parts[0]), source.subset(parts[1])


def _open_folder(root: Path, class_names: Sequence[str] | None) -> Source:
    received = f"Received: {str(root)!r}"
    if not root.is_dir():
        raise DataError(
            f"Expected a folder of class folders; there is none. {received}"
        )
    folders = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not folders:
        raise DataError(
            "Expected a folder with a folder of images for each class; it has no "
            f"folders. {received}"
        )
    if len(folders) > 1 and all(name.lower() in _PARTS for name in folders):
        raise DataError(
            f"The folder has {', '.join(folders)}, which look like parts of a data "
            "set, not like classes: name one of them, as the data or with `split`. "
            f"{received}"
        )
    names = tuple(folders if class_names is None else class_names)
    outside = [name for name in folders if name not in names]
    if outside:
        raise DataError(
            f"The folders {some(outside)} are none of the classes {some(names)}."
            f"{question(outside[0], names)} {received}"
        )
    paths, labels = [], []
    for label, name in enumerate(names):
        found = _images_below(root / name)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise DataError(
            f"Expected image files ({' '.join(sorted(SUFFIXES))}) in the class "
            f"folders; there are none. {received}"
        )
    return FileSource(paths, np.array(labels, "int64"), names)


def _images_below(folder: Path) -> list[str]:
    """Image files at any depth, sorted; a folder that is linked twice counts once."""
    found: list[str] = []
    visited: set[str] = set()
    for directory, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:
            below.clear()
            continue
        visited.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [
            os.path.join(directory, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(found)


def _open_npz(path: Path, class_names: Sequence[str] | None) -> Source:
    received = f"Received: {str(path)!r}"
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"Expected an .npz file of plain arrays: {error}. {received}"
        ) from error
    if not {"images", "labels"} <= set(arrays):
        raise DataError(
            "Expected the arrays `images` and `labels` in the file. "
            f"{received} with {some(sorted(arrays))}"
        )
    if class_names is None and "class_names" in arrays:
        class_names = [str(name) for name in arrays["class_names"]]
    return ArraySource(arrays["images"], arrays["labels"], class_names)


def _open_table(
    path: Path,
    class_names: Sequence[str] | None,
    image_column: str | None,
    label_column: str | None,
) -> Source:
    received = f"Received: {str(path)!r}"
    read = _read_parquet if path.suffix.lower() == ".parquet" else _read_csv
    columns, values = read(path)
    chosen = [
        _column(columns, given, known, what, received)
        for given, known, what in (
            (image_column, _IMAGE_COLUMNS, "image_column"),
            (label_column, _LABEL_COLUMNS, "label_column"),
        )
    ]
    files, given_labels = values(chosen[0]), values(chosen[1])
    if not files:
        raise DataError(f"Expected at least one row. {received}")
    for what, column in (("path", files), ("label", given_labels)):
        empty = [row for row, value in enumerate(column, 1) if value in (None, "")]
        if empty:
            raise DataError(
                f"Expected a {what} in every row; {len(empty)} rows have none: "
                f"{some(empty)}. {received}"
            )
    labels, names = _labels_of(given_labels, class_names, received)
    folder = path.parent
    return FileSource([folder / str(file) for file in files], labels, names)


def _read_csv(path: Path) -> tuple[list[str], Any]:
    import csv

    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # utf-8-sig: spreadsheets write a byte order mark.
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Expected a table in UTF-8: {error}. Received: {str(path)!r}"
        ) from error
    if not rows:
        raise DataError(
            f"Expected a first line with the names of the columns. "
            f"Received: {str(path)!r}"
        )
    columns, *rows = rows
    for number, row in enumerate(rows, 1):
        if len(row) != len(columns):
            raise DataError(
                f"Expected {len(columns)} values in every row; row {number} has "
                f"{len(row)}. Received: {str(path)!r}"
            )
    return columns, lambda name: [row[columns.index(name)] for row in rows]


def _read_parquet(path: Path) -> tuple[list[str], Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "Reading .parquet files needs pyarrow: pip install "
            "'keras-metaformer[train]'"
        ) from error
    try:
        table = parquet.ParquetFile(path)
        columns = table.schema_arrow.names
    except pyarrow.ArrowException as error:
        raise DataError(
            f"Expected a Parquet file: {error}. Received: {str(path)!r}"
        ) from error
    return columns, lambda name: table.read([name]).column(0).to_pylist()


def _column(
    columns: list[str],
    given: str | None,
    known: tuple[str, ...],
    what: str,
    received: str,
) -> str:
    if given is not None:
        if given not in columns:
            raise DataError(
                f"There is no column {given!r} of {some(columns)}."
                f"{question(given, columns)} {received}, {what}={given!r}"
            )
        return given
    for name in known:
        for column in columns:
            if column.strip().lower() == name:
                return column
    raise DataError(
        f"Expected a column {', '.join(known)}, or its name in `{what}`. "
        f"{received} with the columns {some(columns)}"
    )


def _labels_of(
    given: list[Any], class_names: Sequence[str] | None, received: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Positions in the class names, and these; labels are names, or such positions."""
    texts = [str(value).strip() for value in given]
    distinct = set(texts)
    numbers = all(text.isdecimal() for text in distinct)
    if class_names is None:
        names = tuple(sorted(distinct, key=int) if numbers else sorted(distinct))
        if numbers and names == tuple(map(str, range(len(names)))):
            return np.array([int(text) for text in texts], "int64"), names
    else:
        names = tuple(class_names)
        if numbers and not distinct & set(names):
            labels = np.array([int(text) for text in texts], "int64")
            return labels, names
    positions = {name: position for position, name in enumerate(names)}
    outside = sorted(distinct - set(positions))
    if outside:
        raise DataError(
            f"The labels {some(outside)} are none of the classes {some(names)}."
            f"{question(outside[0], names)} {received}"
        )
    return np.array([positions[text] for text in texts], "int64"), names


def _checked_labels(
    labels: Any, count: int, class_names: tuple[str, ...]
) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count or labels.dtype.kind not in "iu":
        raise DataError(
            f"Labels must be integers, one for each of the {count} images. "
            f"Received: labels of shape {labels.shape} and type {labels.dtype}"
        )
    outside = np.unique(labels[(labels < 0) | (labels >= len(class_names))])
    if len(outside):
        raise DataError(
            f"Labels must be from 0 to {len(class_names) - 1}, for the "
            f"{len(class_names)} classes. Received: labels {some(outside.tolist())}"
        )
    return labels.astype("int64")


def some(values: Sequence[Any]) -> str:
    """The first few of many, for messages."""
    values = list(values)
    text = ", ".join(map(repr, values[:_SHOWN]))
    more = len(values) - _SHOWN
    return f"{text} and {more} more" if more > 0 else text


def encoded_image(content: Any, name: str) -> Image.Image:
    """The image of a record: an encoded file, or an array of pixels.

    Raises:
        ImageError: if it cannot be read.
    """
    if isinstance(content, (bytes, memoryview)):
        return decode_image(bytes(content), name)
    from PIL import Image

    pixels = np.asarray(content)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ImageError(
            "Expected an encoded image, or uint8 pixels. Received: an array of shape "
            f"{pixels.shape} and type {pixels.dtype} in {name!r}"
        )
    return to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
