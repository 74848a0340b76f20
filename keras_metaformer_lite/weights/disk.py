"""Small files, and files that are replaced whole under names nobody can guess."""

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST_BYTES_OF_JSON = 1 << 16


@contextlib.contextmanager
def replacement(path: Path, suffix: str = "") -> Iterator[Path]:
    """A new, empty file that takes the place of `path` once the block is over.

    It is made with the permissions that the process gives new files, under a name that
    was free, so that a link which others put there is never followed. After an error
    it is removed, and `path` is as it was.

    Args:
        path: in a folder that exists.
        suffix: ending of the new file's name, for writers that choose by it.
    """
    stem = path.name.removesuffix(suffix)
    temporary = path.with_name(f".{stem}.{secrets.token_hex(8)}.tmp{suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        mode = temporary.stat().st_mode & 0o777
        yield temporary
        # Some writers, safetensors' for one, put a private file of their own there.
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON object; empty where there is none, or no valid one."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return {}
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_BYTES_OF_JSON))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError, RecursionError):  # of brackets within brackets
        return {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON object, whole or not at all."""
    with replacement(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        # On the disk before the rename is.
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
