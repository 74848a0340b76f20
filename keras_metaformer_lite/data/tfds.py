"""Data sets of TensorFlow Datasets, record by record, with or without TensorFlow.

Its own data source gives records of ArrayRecord files by index. Of TFRecord files,
which have no index, this module makes one: where records start is said by their
lengths. Either way TensorFlow Datasets itself takes the records apart, and Pillow
decodes the images, as those of any file.
"""

from __future__ import annotations

import os
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.data.sources import Source, encoded_image
from keras_metaformer_lite.names import question

if TYPE_CHECKING:
    from PIL import Image

# A TFRecord: length (8 bytes), its checksum (4), the record, its checksum (4).
_LENGTH = struct.Struct("<Q")
_BEFORE, _AFTER = 12, 4


class TFDSSource(Source):
    """A part of a data set of TensorFlow Datasets.

    What is not on this machine is downloaded and written as ArrayRecord files, by
    `download_and_prepare`.

    Args:
        name: as `tfds.builder` takes it, such as `"cifar10"` or `"imagenet2012:5.1.0"`.
        split: such as `"train"` or `"train[:90%]"`.
        data_dir: where the data are, if not where TensorFlow Datasets has them by
            itself.

    Raises:
        DataError: if there is no such data set or part, or it has no image with a
            label.
        ImportError: if TensorFlow Datasets is not installed.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.dataset, self.split = name, split
        builder = _builder(name, data_dir)
        #: Of the prepared files, where worker processes find them without the code
        #: that made them.
        self.folder = os.fspath(builder.data_path)
        self.image_key, self.label_key = _keys(builder, name)
        self.class_names = tuple(builder.info.features[self.label_key].names)
        if split not in builder.info.splits:
            try:
                builder.info.splits[split]  # Such as "train[:90%]".
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"The data set has the parts {sorted(builder.info.splits)}. "
                    f"Received: split={split!r} of {name!r}"
                ) from error

    @cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """int64 array `(number,)`; every record is read once for it."""
        records = range(len(self._records))
        return np.array([self._example(i)[self.label_key] for i in records], "int64")

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        return f"{self.dataset} {self.split} record {index}"

    def content(self, index: int) -> bytes:
        content = self._example(index)[self.image_key]
        return content if isinstance(content, bytes) else np.asarray(content).tobytes()

    def load(self, index: int) -> Image.Image:
        return encoded_image(self._example(index)[self.image_key], self.name(index))

    def _example(self, index: int) -> dict[str, Any]:
        return self._records[index]

    @cached_property
    def _records(self) -> Any:
        tfds = _tfds()
        builder = tfds.builder_from_directory(self.folder)
        info = builder.info
        # Pillow decodes: TensorFlow Datasets would import TensorFlow for it.
        decoders = {
            key: tfds.decode.SkipDecoding()
            for key, feature in info.features.items()
            if isinstance(feature, tfds.features.Image)
        }
        if info.file_format.value == "tfrecord":
            places = info.splits[self.split].file_instructions
            return _TFRecords(places, info.features, decoders)
        return builder.as_data_source(self.split, decoders=decoders)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_records"}


class _TFRecords:
    """The examples of TFRecord files, by index."""

    def __init__(self, places: Any, features: Any, decoders: dict[str, Any]) -> None:
        self._features, self._decoders = features, decoders
        #: `(file, offset of the record, its length)` of each.
        self._index: list[tuple[str, int, int]] = []
        for place in places:
            found = _places(os.fspath(place.filename), place.skip + place.take)
            self._index += found[place.skip :]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, offset, length = self._index[index]
        with open(path, "rb") as file:
            file.seek(offset)
            record = file.read(length)
        return self._features.deserialize_example_np(record, decoders=self._decoders)


def _places(path: str, count: int) -> list[tuple[str, int, int]]:
    """Where the first records of a file are."""
    found, position = [], 0
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        for _ in range(count):
            file.seek(position)
            start = file.read(_BEFORE)
            length = _LENGTH.unpack_from(start)[0] if len(start) == _BEFORE else size
            end = position + _BEFORE + length + _AFTER
            if end > size:
                raise DataError(
                    f"Expected {count} records in a TFRecord file; it ends in record "
                    f"{len(found)}. Received: {path!r}"
                )
            found.append((path, position + _BEFORE, length))
            position = end
    return found


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The builder of a data set, which is prepared if it is not yet."""
    tfds = _tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if builder.data_path.exists():
            return builder
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except (
        tfds.core.registered.DatasetNotFoundError,
        ImportError,
        ValueError,
    ) as error:
        # The rest lists all data sets.
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"Not a data set of TensorFlow Datasets: {reason}"
            f"{question(name, tfds.list_builders())} Received: {name!r}"
        ) from error
    builder.download_and_prepare()
    return builder


def _keys(builder: Any, name: str) -> tuple[str, str]:
    """Which features are the image and its label."""
    tfds = _tfds()
    features = dict(builder.info.features.items())
    pair = builder.info.supervised_keys
    if pair is None or len(pair) != 2:
        images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
        labels = [
            k for k, v in features.items() if isinstance(v, tfds.features.ClassLabel)
        ]
        pair = (*images, *labels)
    if (
        len(pair) != 2
        or not isinstance(features.get(pair[0]), tfds.features.Image)
        or not isinstance(features.get(pair[1]), tfds.features.ClassLabel)
    ):
        raise DataError(
            "Expected a data set with an image and its class in each example. "
            f"Received: {name!r} with {features}"
        )
    return pair[0], pair[1]


def _tfds() -> Any:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "'tfds:NAME' needs TensorFlow Datasets: pip install "
            "'keras-metaformer[train]'"
        ) from error
    return tensorflow_datasets
