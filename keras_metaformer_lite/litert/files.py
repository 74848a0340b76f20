"""Putting files and folders in place whole, and never in place of something else."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

#: What TensorFlow writes into the folder of a SavedModel.
_PARTS_OF_A_SAVED_MODEL = frozenset(
    "saved_model.pb saved_model.pbtxt fingerprint.pb keras_metadata.pb variables "
    "assets assets.extra".split()
)


def check_file(path: Path, name: str = "path") -> None:
    """Raise a `ValueError` unless a file can be written there, or replaced.

    Args:
        path: where.
        name: of the argument, for the message.
    """
    received = f"Received: {name}={str(path)!r}"
    if path.is_dir():
        raise ValueError(f"`{name}` must be a file, but it is a folder. {received}")
    if path.exists() and not path.is_file():
        raise ValueError(f"`{name}` must be a file, but it is a device. {received}")
    _check_parent(path, name)


def check_saved_model(path: Path) -> None:
    """Raise a `ValueError` unless there is nothing, or only a SavedModel."""
    received = f"Received: path={str(path)!r}"
    try:
        names = _names_in(path)
    except FileNotFoundError:
        _check_parent(path, "path")
        return
    except NotADirectoryError as error:
        raise ValueError(
            "`path` must be a new folder or that of an earlier SavedModel, but it is "
            f"a {'link' if path.is_symlink() else 'file'}. {received}"
        ) from error
    if Path.cwd().is_relative_to(path.resolve()):
        raise ValueError(
            "`path` must be a new folder or that of an earlier SavedModel, but it "
            f"holds the working directory. {received}"
        )
    others = sorted(names - _PARTS_OF_A_SAVED_MODEL)
    if others or not names & {"saved_model.pb", "saved_model.pbtxt"}:
        found = f"it holds {others[0]!r}" if others else "it is none"
        raise ValueError(
            "`path` must be a new folder or that of an earlier SavedModel, which is "
            f"replaced, but {found}. {received}"
        )
    _check_parent(path, "path")


def _names_in(path: Path) -> set[str]:
    """The names in a folder, as they were while it stood there.

    Another thread may move an earlier SavedModel aside and remove it while its names
    are read. The descriptor tells that from what has come in its place.
    """
    if path.is_symlink():
        raise NotADirectoryError(path)
    if os.listdir not in os.supports_fd:  # Windows, which moves no folder that is open
        return set(os.listdir(path))
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            names = set(os.listdir(descriptor))
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return names
        finally:
            os.close(descriptor)


def _check_parent(path: Path, name: str) -> None:
    parent = path.absolute().parent
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"`{name}` must be in a folder that can be written to, which "
            f"{str(parent)!r} is not. Received: {name}={str(path)!r}"
        )


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new empty file of another name, put in place if the block ends well.

    The block writes into the file. Its name is nobody else's, in any process or thread.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}-{secrets.token_hex(8)}")
    # Not mkstemp's 0600: the permissions are those that the user's umask leaves.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Write bytes to a file, and wait until they are on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder on the file system of `path`, removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as name:
        yield Path(name)


def place_saved_model(new: Path, path: Path, folder: Path) -> None:
    """Put a SavedModel in place; an earlier one is moved to `folder` before.

    Where another thread or process saves to the same path, the last one stays.

    Raises:
        ValueError: if something else has come to stand there.
    """
    while True:
        check_saved_model(path)
        aside = folder / f"earlier-{secrets.token_hex(8)}"
        moved = True
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            moved = False
        try:
            os.rename(new, path)
        except OSError:
            if not path.is_dir():
                if moved:
                    os.rename(aside, path)
                raise
            continue  # Another's SavedModel came in between.
        if moved:
            shutil.rmtree(aside)
        return
