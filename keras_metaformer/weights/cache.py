"""Converted checkpoints on disk: made once, whole or not at all.

The folder is `$KERAS_METAFORMER_CACHE`, else `$KERAS_HOME/keras_metaformer`, else
`~/.keras/keras_metaformer`. In it:

* `ConvFormerS18-imagenet.weights.h5`: the converted weights;
* `ConvFormerS18-imagenet.json`: their record. It is written last, so weights
  without a valid record are not taken for whole;
* `sources/ConvFormerS18-imagenet/`: files that the user placed by hand;
* `downloads/ConvFormerS18-imagenet/`: files on their way, removed once converted.
  Files of the Hugging Face hub stay in the hub's own cache instead.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_metaformer.weights import download
from keras_metaformer.weights.catalogue import (
    Checkpoint,
    Source,
    all_checkpoints,
    hash_prefix,
)

# To be raised when the layout of the converted files changes: files of another
# version are converted anew.
FORMAT_VERSION = 1

Convert = Callable[[Path, Path], None]


class CacheError(OSError):
    """The cache folder cannot be used, or a file in it is damaged."""


def cache_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Returns the cache folder, which need not exist yet.

    Args:
        folder: Overrides what the environment says.
    """
    if folder is None:
        folder = os.environ.get("KERAS_METAFORMER_CACHE")
    if folder is not None:
        return Path(folder).expanduser()
    keras_home = os.environ.get("KERAS_HOME", "~/.keras")
    return Path(keras_home).expanduser() / "keras_metaformer"


def converted_path(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Returns where the converted weights are or will be.

    Args:
        checkpoint: Which weights.
        source: As in `Checkpoint.url`. Where both sources are the same file, so are
            the converted ones.
        folder: Overrides the cache folder.
    """
    suffix = "" if checkpoint.url(source) == checkpoint.url() else "-official"
    return cache_folder(folder) / f"{_name(checkpoint)}{suffix}.weights.h5"


def hand_placed_path(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Returns where a source file fetched by other means is looked for.

    Args:
        checkpoint: Which weights.
        source: As in `Checkpoint.url`.
        folder: Overrides the cache folder.
    """
    file = checkpoint.url(source).rsplit("/", 1)[-1]
    return cache_folder(folder) / "sources" / _name(checkpoint) / file


def is_cached(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> bool:
    """Returns whether the converted weights are there and of the recorded size.

    Args:
        checkpoint: Which weights.
        source: As in `Checkpoint.url`.
        folder: Overrides the cache folder.
    """
    target = converted_path(checkpoint, source, folder)
    converted = _read_record(target).get("converted")
    try:
        return converted is not None and target.stat().st_size == converted["bytes"]
    except OSError:
        return False


def ensure_converted(
    checkpoint: Checkpoint,
    convert: Convert,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Returns the converted weights, downloading and converting on first use.

    Later uses send no request, take no lock and write nothing, so that a read-only
    cache serves them. Processes that need the same weights at once make one
    conversion between them.

    Args:
        checkpoint: Which weights.
        convert: Called with the source file and the path of the `.weights.h5` file to
            write.
        source: As in `Checkpoint.url`.
        folder: Overrides the cache folder.

    Raises:
        DownloadError: If the source cannot be fetched, or is not the file it was or
            should be.
        CacheError: If the cache folder cannot be written to.
    """
    target = converted_path(checkpoint, source, folder)
    if is_cached(checkpoint, source, folder):
        return target
    with _locked(target):
        if not is_cached(checkpoint, source, folder):  # by another process meanwhile
            _make(checkpoint, convert, source, target)
    return target


def verify(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> None:
    """Checks the SHA-256 of converted weights.

    Args:
        checkpoint: Which weights.
        source: As in `Checkpoint.url`.
        folder: Overrides the cache folder.

    Raises:
        CacheError: If they are not in the cache, or changed since they were made.
    """
    target = converted_path(checkpoint, source, folder)
    if not is_cached(checkpoint, source, folder):
        state = "incomplete or of the wrong size" if target.exists() else "not cached"
        raise CacheError(f"{target.name} is {state}. Received: folder={target.parent}")
    expected, found = _read_record(target)["converted"]["sha256"], _sha256(target)
    if found != expected:
        raise CacheError(
            f"{target.name} is damaged: its SHA-256 was {expected} and is {found}. "
            f"{_advice_to_clear(checkpoint)} Received: folder={target.parent}"
        )


def clear(
    checkpoint: Checkpoint, folder: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Removes the converted weights, their record and unfinished downloads.

    Files that the user placed by hand, and the hub's own cache, are left alone.

    Args:
        checkpoint: Which weights; both sources of them are removed.
        folder: Overrides the cache folder.

    Returns:
        The files removed.

    Raises:
        CacheError: If the cache folder cannot be written to.
    """
    removed = []
    for target in {
        converted_path(checkpoint, source, folder) for source in ("auto", "official")
    }:
        downloads = _downloads(target)
        if not (target.exists() or _record_path(target).exists() or downloads.exists()):
            continue
        with _locked(target), _disk_errors(target.parent):
            # The record first: without it the weights count for nothing.
            rest = (target, _temporary(target), *downloads.glob("*"))
            for path in (_record_path(target), *rest):
                if path.exists():
                    path.unlink()
                    removed.append(path)
            shutil.rmtree(downloads, ignore_errors=True)
    return removed


def cached_checkpoints(
    folder: str | os.PathLike[str] | None = None,
) -> list[tuple[Checkpoint, Source]]:
    """Returns the checkpoints with a record in the cache, damaged ones included.

    Args:
        folder: Overrides the cache folder.
    """
    sources: tuple[Source, ...] = ("official", "auto")
    found: dict[Path, tuple[Checkpoint, Source]] = {}
    for checkpoint in all_checkpoints():
        for source in sources:
            path = converted_path(checkpoint, source, folder)
            if _record_path(path).exists():
                found[path] = (checkpoint, source)  # "auto" where both are one
    return list(found.values())


def _make(
    checkpoint: Checkpoint, convert: Convert, source: Source, target: Path
) -> None:
    """Fetches and converts; called with the lock held."""
    temporary = _temporary(target)
    known_source = _read_record(target).get("source")
    url, file, sha256 = _obtain(checkpoint, source, target, known_source)
    record = {
        "format": FORMAT_VERSION,
        "constructor": checkpoint.constructor,
        "tag": checkpoint.tag,
        "licence": checkpoint.licence,
        "source": {"url": url, "sha256": sha256, "bytes": file.stat().st_size},
        "converted": None,
        "versions": _versions(),
    }
    downloads = _downloads(target)
    with _disk_errors(target.parent):
        _write_record(target, record)
        try:
            _require_room(temporary, file.stat().st_size)
            convert(file, temporary)
            _synchronise(temporary)
            _require_readable(temporary)
            record["converted"] = {
                "file": target.name,
                "sha256": _sha256(temporary),
                "bytes": temporary.stat().st_size,
            }
            os.replace(temporary, target)
            _write_record(target, record)
        except Exception as error:
            error.add_note(f"While converting {file}, which came from {url}.")
            of_disk = isinstance(error, CacheError) or _disk_reason(error) is not None
            if known_source is None and not of_disk:
                # The file may be at fault: the next run shall not be bound to it.
                _record_path(target).unlink(missing_ok=True)
                if file.parent == downloads:
                    file.unlink(missing_ok=True)
            raise
        finally:
            temporary.unlink(missing_ok=True)
    shutil.rmtree(downloads, ignore_errors=True)


def _obtain(
    checkpoint: Checkpoint,
    source: Source,
    target: Path,
    known_source: dict[str, Any] | None,
) -> tuple[str, Path, str]:
    """Returns the URL, the local path and the SHA-256 of the source file."""
    preferred = checkpoint.url(source)
    hand_placed = hand_placed_path(checkpoint, source, target.parent)
    for url in dict.fromkeys((preferred, *checkpoint.urls)):
        file = hand_placed.with_name(url.rsplit("/", 1)[-1])
        if file.is_file():
            break
    else:
        url = preferred
        file = download.fetch(url, _downloads(target), hand_placed)
    sha256 = _sha256(file)

    def rejected(reason: str) -> download.DownloadError:
        if file.parent == _downloads(target):
            file.unlink()
            reason += "; the download was removed"
        else:
            reason += f"; the file is {file}, remove it to try again"
        return download.failure(url, reason, hand_placed)

    expected = hash_prefix(url) or _hub_sha256(file)
    if expected is not None and not sha256.startswith(expected):
        raise rejected(
            f"wrong content: its SHA-256 should start with {expected} and is {sha256}"
        )
    if known_source and known_source["url"] == url and known_source["sha256"] != sha256:
        raise rejected(
            f"its content changed under the same name: the SHA-256 was "
            f"{known_source['sha256']} and is {sha256}. {_advice_to_clear(checkpoint)}"
        )
    return url, file, sha256


def _hub_sha256(file: Path) -> str | None:
    """Returns the hash that the hub's cache names a large file by, if it is there."""
    if file.is_symlink() and file.parent.parent.name == "snapshots":
        name = Path(os.readlink(file)).name
        if re.fullmatch(r"[0-9a-f]{64}", name):
            return name
    return None


def _name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.constructor}-{checkpoint.tag}"


def _stem(target: Path) -> str:
    return target.name.removesuffix(".weights.h5")


def _downloads(target: Path) -> Path:
    return target.parent / "downloads" / _stem(target)


def _temporary(target: Path) -> Path:
    # Keras writes to no other suffix than `.weights.h5`.
    return target.with_name(f".{_stem(target)}.tmp.weights.h5")


def _record_path(target: Path) -> Path:
    return target.with_name(_stem(target) + ".json")


def _read_record(target: Path) -> dict[str, Any]:
    """Returns the record beside converted weights; empty if there is no valid one."""
    try:
        record = json.loads(_record_path(target).read_text(encoding="utf-8"))
        if record["format"] != FORMAT_VERSION:
            record["converted"] = None
        parts = [part for part in (record["source"], record["converted"]) if part]
        valid = all({"sha256", "bytes"} <= part.keys() for part in parts)
        return record if valid and "url" in record["source"] else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_record(target: Path, record: dict[str, Any]) -> None:
    path = _record_path(target)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _synchronise(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _synchronise(file: Path) -> None:
    """Waits until the file is on the disk, so that a rename never precedes it."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _require_room(file: Path, size: int) -> None:
    """Raises `OSError` unless the disk and its quotas have room for `size` bytes.

    HDF5 does not survive a full disk: what fails when it closes an array is lost
    without an exception, and it was seen to crash the process.
    """
    size += size // 10 + (1 << 20)
    if shutil.disk_usage(file.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    if hasattr(os, "posix_fallocate"):  # knows of quotas and limits, too
        try:
            with file.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
        finally:
            file.unlink(missing_ok=True)


def _require_readable(file: Path) -> None:
    """Reads every array once, since HDF5 may have lost the errors of writing."""
    import h5py

    def read(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            item[()]

    try:
        with h5py.File(file) as weights:
            weights.visititems(read)
    except (OSError, RuntimeError, KeyError) as error:
        raise CacheError(
            f"The converted weights were not written whole: {error}. Is the disk "
            f"full? Received: file={str(file)!r}"
        ) from error


def _versions() -> dict[str, str | None]:
    import importlib.metadata

    package = sys.modules.get("keras_metaformer")
    return {
        "keras": importlib.metadata.version("keras"),
        "keras_metaformer": getattr(package, "__version__", None),
    }


def _advice_to_clear(checkpoint: Checkpoint) -> str:
    return (
        "To accept what is there now: `keras-metaformer weights clear "
        f"{checkpoint.constructor} {checkpoint.tag}`, then try again."
    )


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Holds the lock of one converted file; a killed process gives it back."""
    import filelock

    lock = filelock.FileLock(target.with_name(f".{_stem(target)}.lock"))
    with _disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns the disk's errors into one that names the folder and the ways out."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 raises both
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise CacheError(
            f"Cannot write to the cache folder {folder}: {reason} ({error}). Set "
            "KERAS_METAFORMER_CACHE or KERAS_HOME to a folder with room that may be "
            f"written to. Received: folder={str(folder)!r}"
        ) from error


def _disk_reason(error: BaseException) -> str | None:
    number = getattr(error, "errno", None)
    if number is None and (match := re.search(r"errno = (\d+)", str(error))):
        number = int(match[1])  # HDF5 may only word it
    in_the_way = "a file is in the place of a folder"
    reasons = {errno.ENOTDIR: in_the_way, errno.EEXIST: in_the_way}
    return None if number is None else (download.DISK_ERRORS | reasons).get(number)
