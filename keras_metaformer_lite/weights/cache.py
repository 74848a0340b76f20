"""Published files on disk, each with the SHA-256 that was seen at first.

The folder is `$KERAS_METAFORMER_CACHE`, else `$KERAS_HOME/keras_metaformer`, else
`~/.keras/keras_metaformer`. In it:

* `ConvFormerS18-imagenet.json`: the record of a file that was used: address, size,
  SHA-256;
* `sources/ConvFormerS18-imagenet/`: files that the user placed by hand;
* `downloads/ConvFormerS18-imagenet/`: files from elsewhere than the Hugging Face hub,
  whose files stay in the hub's own cache.
"""

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_metaformer_lite.backends import keras_home
from keras_metaformer_lite.weights import download
from keras_metaformer_lite.weights.catalogue import Checkpoint, Source, all_checkpoints
from keras_metaformer_lite.weights.disk import read_json, write_json

_SOURCES: tuple[Source, ...] = ("auto", "official")


class CacheError(OSError):
    """The cache folder cannot be used, or a file in it is damaged."""


def cache_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder, which need not exist yet.

    Args:
        folder: overrides what the environment says.
    """
    # A variable that is set to nothing means no folder, above all not the current one.
    folder = folder or os.environ.get("KERAS_METAFORMER_CACHE")
    if folder:
        return Path(folder).expanduser()
    return keras_home() / "keras_metaformer"


def hand_placed_path(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Where a file fetched by other means is looked for.

    Args:
        checkpoint: which weights.
        source: as in `Checkpoint.url`.
        folder: overrides the cache folder.
    """
    file = _file_name(checkpoint.url(source))
    return cache_folder(folder) / "sources" / _name(checkpoint) / file


def record_path(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """Where the record of the file is or will be.

    Args:
        checkpoint: which weights.
        source: as in `Checkpoint.url`. Where both sources are the same file, so are
            their records.
        folder: overrides the cache folder.
    """
    suffix = "" if checkpoint.url(source) == checkpoint.url() else "-official"
    return cache_folder(folder) / f"{_name(checkpoint)}{suffix}.json"


def cached_source(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path | None:
    """The file if it is there and of the recorded size, else `None`.

    No request is sent and nothing is written.

    Args:
        checkpoint: which weights.
        source: as in `Checkpoint.url`.
        folder: overrides the cache folder.
    """
    record = _read_record(record_path(checkpoint, source, folder))
    for file in _candidates(checkpoint, source, folder, record):
        if file.is_file() and file.stat().st_size == record["bytes"]:
            return file
    return None


def ensure_source(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """The published file, downloading it on first use.

    Later uses send no request, take no lock and write nothing, so that a read-only
    cache serves them. Processes that need the same file at once make one download
    between them.

    Args:
        checkpoint: which weights.
        source: as in `Checkpoint.url`.
        folder: overrides the cache folder.

    Raises:
        DownloadError: if the file cannot be fetched, or is not what it was or should
            be.
        CacheError: if the cache folder cannot be written to.
    """
    if file := cached_source(checkpoint, source, folder):
        return file
    with _locked(record_path(checkpoint, source, folder)):
        # Another process may have been faster.
        file = cached_source(checkpoint, source, folder)
        return file or _obtain(checkpoint, source, folder)


def verify(
    checkpoint: Checkpoint,
    source: Source = "auto",
    folder: str | os.PathLike[str] | None = None,
) -> Path:
    """The file after comparing its SHA-256 with the recorded one.

    Args:
        checkpoint: which weights.
        source: as in `Checkpoint.url`.
        folder: overrides the cache folder.

    Raises:
        CacheError: if it is not in the cache, or changed since it was first used.
    """
    file = cached_source(checkpoint, source, folder)
    record = record_path(checkpoint, source, folder)
    if file is None:
        raise CacheError(
            f"The file of {record.stem} is not there, or of another size than at "
            f"first. Received: folder={str(record.parent)!r}"
        )
    expected, found = _read_record(record)["sha256"], _sha256(file)
    if found != expected:
        raise CacheError(
            f"{file} is damaged: its SHA-256 was {expected} and is {found}. "
            f"{advice_to_clear(checkpoint)} Received: folder={str(record.parent)!r}"
        )
    return file


def clear(
    checkpoint: Checkpoint, folder: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Remove what was downloaded, whole or not, and its record.

    Files that the user placed by hand, and the hub's own cache, are left alone.

    Args:
        checkpoint: which weights; both sources of them are removed.
        folder: overrides the cache folder.

    Returns:
        The files removed.

    Raises:
        CacheError: if the cache folder cannot be written to, or has links in the place
            of its own folders, which would lead elsewhere.
    """
    removed = []
    for record in {record_path(checkpoint, source, folder) for source in _SOURCES}:
        downloads = _downloads(record)
        if not (record.exists() or record.is_symlink() or downloads.exists()):
            continue
        with _locked(record), _disk_errors(record.parent):
            _refuse_links(downloads)
            leftovers = record.parent.glob(f".{record.name}.*.tmp")
            for path in (record, *leftovers, *downloads.glob("*")):
                if path.is_file() or path.is_symlink():
                    path.unlink()
                    removed.append(path)
            with contextlib.suppress(OSError):  # of folders that are not ours
                downloads.rmdir()
    return removed


def cached_checkpoints(
    folder: str | os.PathLike[str] | None = None,
) -> list[tuple[Checkpoint, Source]]:
    """The checkpoints with a record in the cache, damaged ones included.

    Args:
        folder: overrides the cache folder.
    """
    found: dict[Path, tuple[Checkpoint, Source]] = {}
    for checkpoint in all_checkpoints():
        for source in reversed(_SOURCES):
            path = record_path(checkpoint, source, folder)
            if path.exists():
                found[path] = (checkpoint, source)  # "auto" where both are one
    return list(found.values())


def advice_to_clear(checkpoint: Checkpoint) -> str:
    """The sentence that says how to forget what was seen at first."""
    return (
        "To accept what is there now: `keras-metaformer weights clear "
        f"{checkpoint.constructor} {checkpoint.tag}`, then try again."
    )


def _candidates(
    checkpoint: Checkpoint,
    source: Source,
    folder: str | os.PathLike[str] | None,
    record: dict[str, Any],
) -> Iterator[Path]:
    """Where the recorded file may be: by hand, downloaded, in the hub's cache."""
    if not record:
        return
    name = _file_name(record["url"])
    yield hand_placed_path(checkpoint, source, folder).with_name(name)
    yield _downloads(record_path(checkpoint, source, folder)) / name
    if in_hub := download.cached_by_hub(record["url"]):
        yield in_hub


def _obtain(
    checkpoint: Checkpoint, source: Source, folder: str | os.PathLike[str] | None
) -> Path:
    """Fetches, checks and records a file; called with the lock held."""
    target = record_path(checkpoint, source, folder)
    downloads = _downloads(target)
    known = _read_record(target)
    url = checkpoint.url(source)
    hand_placed = hand_placed_path(checkpoint, source, folder)
    with _disk_errors(target.parent):
        _refuse_links(downloads)
    for address in dict.fromkeys((url, *checkpoint.urls)):
        file = hand_placed.with_name(_file_name(address))
        if file.is_file():
            url = address
            break
    else:
        file = downloads / _file_name(url)
        if known and file.is_file() and file.stat().st_size != known["bytes"]:
            file.unlink()
        file = download.fetch(url, downloads, hand_placed)
    sha256 = _sha256(file)

    def rejected(reason: str) -> download.DownloadError:
        if file.parent == downloads:
            file.unlink()
            reason += "; the download was removed"
        else:
            reason += f"; the file is {file}, remove it to try again"
        return download.failure(url, reason, hand_placed)

    expected = checkpoint.known_sha256(url) or _hub_sha256(file)
    if expected is not None and not sha256.startswith(expected):
        raise rejected(
            f"wrong content: its SHA-256 should start with {expected} and is {sha256}"
        )
    if known and known["url"] == url and known["sha256"] != sha256:
        raise rejected(
            f"its content changed under the same name: the SHA-256 was "
            f"{known['sha256']} and is {sha256}. {advice_to_clear(checkpoint)}"
        )
    record = {
        "constructor": checkpoint.constructor,
        "tag": checkpoint.tag,
        "licence": checkpoint.licence,
        "url": url,
        "sha256": sha256,
        "bytes": file.stat().st_size,
    }
    with _disk_errors(target.parent):
        write_json(target, record)
    return file


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    types = {"url": str, "sha256": str, "bytes": int}
    valid = all(isinstance(record.get(name), kind) for name, kind in types.items())
    return record if valid else {}


def _hub_sha256(file: Path) -> str | None:
    """The hash that the hub's cache names a large file by, if it is there."""
    if file.is_symlink() and file.parent.parent.name == "snapshots":
        name = Path(os.readlink(file)).name
        if re.fullmatch(r"[0-9a-f]{64}", name):
            return name
    return None


def _name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.constructor}-{checkpoint.tag}"


def _file_name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _downloads(record: Path) -> Path:
    return record.parent / "downloads" / record.stem


def _refuse_links(downloads: Path) -> None:
    """Raise `CacheError` if a folder of the cache's own leads out of it."""
    for folder in (downloads.parent, downloads):
        if folder.is_symlink():
            raise CacheError(
                f"{folder} is a link to {os.readlink(folder)}: nothing is written or "
                "removed there. Remove the link, or set KERAS_METAFORMER_CACHE to the "
                f"folder that is meant. Received: folder={str(folder)!r}"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Holds the lock of one record; a killed process gives it back."""
    import filelock

    lock = filelock.FileLock(record.with_name(f".{record.stem}.lock"))
    with _disk_errors(record.parent):
        record.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn the disk's errors into one that names the folder and the ways out."""
    in_the_way = "a file is in the place of a folder"
    reasons = {errno.ENOTDIR: in_the_way, errno.EEXIST: in_the_way}
    try:
        yield
    except OSError as error:
        reason = (download.DISK_ERRORS | reasons).get(error.errno or 0)
        if reason is None:
            raise
        raise CacheError(
            f"Cannot write to the cache folder {folder}: {reason} ({error}). Set "
            "KERAS_METAFORMER_CACHE or KERAS_HOME to a folder with room that may be "
            f"written to. Received: folder={str(folder)!r}"
        ) from error
