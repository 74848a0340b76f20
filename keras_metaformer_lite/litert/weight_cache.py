"""XNNPACK's packed weights, kept for the next start of the same model."""

import hashlib
import importlib.metadata
import os
import platform
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_metaformer_lite.litert import files

_PIECE = 1 << 20


def with_cache(
    content: bytes, folder: Path, compile_with: Callable[[Path], Any]
) -> Any:
    """Compile a model, with the weights that an earlier start has packed if it can.

    XNNPACK looks for a weight by its place in the model and trusts what it finds, so
    that the weights of another file of the same architecture, or damaged ones, would
    give wrong answers. A cache is therefore named by the SHA-256 of the model's file,
    with a digest of the runtime's version and the processor's kind, and used only if
    its own SHA-256 is the one recorded beside it. It is made under another name, and
    put in place when it is whole.

    Args:
        content: the bytes of the model's file.
        folder: where the caches are; made if there is none.
        compile_with: compiles the model, given the path of a cache to use, or to make
            if there is none.

    Returns:
        What `compile_with` returns.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = hashlib.sha256(content).hexdigest()
    cache = folder / f"{model}-{_packer()}.xnnpack"
    record = cache.with_suffix(".sha256")
    if _is_whole(cache, record):
        return compile_with(cache)
    made = folder / f".{secrets.token_hex(8)}.xnnpack"
    try:
        compiled = compile_with(made)
        if made.exists():  # Not of a model without weights to pack.
            digest = _sha256(made)
            os.replace(made, cache)
            with files.replacing(record) as temporary:
                files.write(temporary, f"{digest}  {cache.name}\n".encode())
    finally:
        made.unlink(missing_ok=True)
    return compiled


def _packer() -> str:
    """A digest of what decides how weights are packed."""
    version = importlib.metadata.version("ai-edge-litert")
    # The instructions of this processor, for which XNNPACK chooses its kernels.
    extensions: Any = np.show_config(mode="dicts")
    found = extensions.get("SIMD Extensions", {})
    words = [version, platform.machine(), *found.get("found", [])]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]


def _is_whole(cache: Path, record: Path) -> bool:
    try:
        with record.open("rb") as stream:
            expected = stream.read(64)
        return _sha256(cache).encode() == expected
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
