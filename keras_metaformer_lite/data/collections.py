"""Collections of images without labels, large ones too, wherever they are.

On this machine, or at any address that fsspec knows (`s3://`, `gs://`, `https://`), as
files or in Parquet tables.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from keras_metaformer_lite.data.errors import DataError
from keras_metaformer_lite.data.predicted import read_each
from keras_metaformer_lite.images import SUFFIXES, decode_image, load_image
from keras_metaformer_lite.images import expand_images as expand_local

if TYPE_CHECKING:
    from PIL import Image

    from keras_metaformer_lite.description import ImageDescription

#: Columns of a Parquet table that are looked for, in this order.
_BYTES_COLUMNS = ("image", "bytes", "content")
_ADDRESS_COLUMNS = ("image", "path", "address", "url", "file")


class Item(NamedTuple):
    """An image of a collection: its name, and its file's bytes where they are known."""

    name: str
    content: bytes | None


class Collection(Protocol):
    """Images in an order that does not change."""

    def __len__(self) -> int:
        """How many."""
        ...

    def fingerprint(self) -> str:
        """What tells it from another collection; of names, not of the images."""
        ...

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """The images of a range."""
        ...


def open_collection(sources: Sequence[str | os.PathLike[str]]) -> Collection:
    """The collection that files, folders, patterns, tables and addresses stand for.

    Args:
        sources: each a file, a folder (of files; at an address, all files below), a
            pattern, or `.parquet` files, here or at an address such as
            `s3://bucket/photos/`. Tables have the bytes of image files, or paths or
            addresses, in a column called image, bytes, content, path, address, url or
            file; Hugging Face's dictionaries of both are known.

    Raises:
        DataError: if there is nothing, or tables and files are mixed.
        ImageError: if a local folder or pattern has no image.
        ImportError: if fsspec, or pyarrow for tables, is missing.
    """
    local = [os.fspath(each) for each in sources if not is_address(each)]
    remote = [os.fspath(each) for each in sources if is_address(each)]
    tables = [each for each in (*local, *remote) if _is_table(each)]
    if tables and len(tables) < len(sources):
        raise DataError(
            "Give tables of images or files of images, not both. "
            f"Received: {[os.fspath(each) for each in sources][:5]}"
        )
    if tables:
        found = [*_expanded_tables(local), *_remote(remote, {".parquet"})]
        if not found:
            raise DataError(f"There is no such table. Received: {tables[:5]}")
        return _Tables(found)
    names = [str(path) for path in expand_local(local)] if local else []
    names += _remote(remote, SUFFIXES)
    return _Files(list(dict.fromkeys(names)))


def is_address(source: str | os.PathLike[str]) -> bool:
    """Whether it is an address of fsspec's, and no path."""
    return "://" in os.fspath(source)


def _is_table(source: str) -> bool:
    return PurePosixPath(source).suffix.lower() == ".parquet"


def _expanded_tables(sources: Sequence[str]) -> list[str]:
    found: list[str] = []
    for source in sources:
        is_pattern = glob.has_magic(source) and not Path(source).exists()
        found += sorted(glob.glob(source, recursive=True)) if is_pattern else [source]
    return found


def _remote(sources: Sequence[str], suffixes: Any) -> list[str]:
    """The files at addresses; of folders and patterns those with a suffix."""
    found: list[str] = []
    for source in sources:
        system, path = file_system(source)
        if glob.has_magic(path):
            paths = system.glob(path)
        elif PurePosixPath(path).suffix.lower() in suffixes:
            found.append(source)
            continue
        else:
            paths = system.find(path)
        chosen = sorted(p for p in paths if PurePosixPath(p).suffix.lower() in suffixes)
        if not chosen:
            raise DataError(f"There is no image at the address. Received: {source!r}")
        found += [str(system.unstrip_protocol(path)) for path in chosen]
    return found


def file_system(address: str) -> tuple[Any, str]:
    """The file system of an address, by fsspec, and the path in it.

    What it needs (keys, an endpoint) is taken from fsspec's configuration, files or
    variables such as FSSPEC_S3_ENDPOINT_URL, and from what the service's own tools use.

    Raises:
        ImportError: if fsspec or the package for such addresses is missing.
        DataError: if there are no such addresses.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(address)
    except ValueError as error:
        raise DataError(f"{error}. Received: {address!r}") from error


class _Files:
    """Image files, by path or address."""

    def __init__(self, names: list[str]) -> None:
        if not names:
            raise DataError("Expected at least one image. Received: none")
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def fingerprint(self) -> str:
        return _hash(self._names)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        return (Item(name, None) for name in self._names[start:stop])


class _Tables:
    """Rows of Parquet tables; only those of the range are read."""

    def __init__(self, tables: list[str]) -> None:
        self._tables = tables
        self._column, self._kind = "", ""
        counts = []
        for table in tables:
            with _opened(table) as file:
                counts.append(file.metadata.num_rows)
                if not self._column:
                    self._column, self._kind = _column(file.schema_arrow, table)
        self._ends = np.cumsum(counts).tolist()
        if not self._ends[-1]:
            raise DataError(f"The tables have no rows. Received: {tables[:5]}")

    def __len__(self) -> int:
        return self._ends[-1]

    def fingerprint(self) -> str:
        return _hash(
            [
                f"{each} {end}"
                for each, end in zip(self._tables, self._ends, strict=True)
            ]
        )

    def items(self, start: int, stop: int) -> Iterator[Item]:
        begin = 0
        for table, end in zip(self._tables, self._ends, strict=True):
            low, high = max(start, begin), min(stop, end)
            if low < high:
                yield from self._of_table(table, low - begin, high - begin)
            begin = end

    def _of_table(self, table: str, start: int, stop: int) -> Iterator[Item]:
        with _opened(table) as file:
            begin = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                low, high = max(start - begin, 0), min(stop - begin, rows)
                if low < high:
                    values = file.read_row_group(group, columns=[self._column])
                    column = values.column(0).slice(low, high - low).to_pylist()
                    for place, value in enumerate(column, begin + low):
                        yield self._item(table, place, value)
                begin += rows

    def _item(self, table: str, row: int, value: Any) -> Item:
        name = f"{table}#{row}"
        if self._kind == "addresses":
            return Item(value or name, None if value else b"")
        if self._kind == "both" and value is not None:
            if value["bytes"] is None:
                return Item(value["path"] or name, None if value["path"] else b"")
            value = value["bytes"]
        return Item(name, value or b"")


def _opened(table: str) -> Any:
    import pyarrow.parquet as parquet

    try:
        if is_address(table):
            system, path = file_system(table)
            return parquet.ParquetFile(system.open(path, "rb"))
        return parquet.ParquetFile(table)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Expected a Parquet table of images: {error}. Received: {table!r}"
        ) from error


def _column(schema: Any, table: str) -> tuple[str, str]:
    """The column of the images, and what it has: bytes, addresses or both."""
    import pyarrow as pa

    for name in dict.fromkeys((*_BYTES_COLUMNS, *_ADDRESS_COLUMNS)):
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name, "bytes"
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return name, "addresses"
        if pa.types.is_struct(kind):
            fields = {kind.field(place).name for place in range(kind.num_fields)}
            if fields == {"bytes", "path"}:
                return name, "both"
    raise DataError(
        f"Expected a column of image files' bytes or of addresses, called one of "
        f"{', '.join(dict.fromkeys((*_BYTES_COLUMNS, *_ADDRESS_COLUMNS)))}. "
        f"Received: {table!r} with {schema.names}"
    )


def _hash(names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
    return f"{len(names)} {digest.hexdigest()[:16]}"


class ItemReader:
    """Reads images of a collection and prepares them for a model.

    Args:
        description: of the model's images.
    """

    def __init__(self, description: ImageDescription) -> None:
        self._description = description

    def __call__(
        self, items: Sequence[Item]
    ) -> list[tuple[str, np.ndarray | None, str]]:
        """`(name, image or None, why there is none)` of each."""
        loads = ((item[0], partial(_load, *item)) for item in items)
        return read_each(self._description, loads)


def _load(name: str, content: bytes | None) -> Image.Image:
    if content is not None:
        return decode_image(content, name)
    if not is_address(name):
        return load_image(name)
    system, path = file_system(name)
    return decode_image(system.cat_file(path), name)


def in_tasks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of so many items."""
    return iter(lambda: list(itertools.islice(items, size)), [])
