"""The switch of the fast paths: other ways to the same numbers, exact to rounding.

Some layers hold a faster form of their formula for some backends and devices. All are
on unless the environment variable `KERAS_METAFORMER_FAST_PATHS` is `0` when the package
is imported; this module turns them off and on afterwards. The switch is read when a
layer is called or traced: a function compiled before keeps the form it was compiled
with.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import keras

from keras_metaformer.layers.tracing import taken_as_given

ENVIRONMENT_VARIABLE = "KERAS_METAFORMER_FAST_PATHS"

_VALUES = {"": True, "1": True, "0": False}


def _from_environment() -> bool:
    value = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if value not in _VALUES:
        raise ValueError(
            f"The environment variable {ENVIRONMENT_VARIABLE} must be 0 or 1. "
            f"Received: {ENVIRONMENT_VARIABLE}={value!r}"
        )
    return _VALUES[value]


_enabled = _from_environment()
#: What the innermost `switched` of this thread (or asynchronous task) says, or None.
_override: ContextVar[bool | None] = ContextVar("fast_paths", default=None)


# torch.compile cannot trace a context variable: it takes what it finds there when it
# compiles.
@taken_as_given
def enabled() -> bool:
    """Whether layers may take their fast paths."""
    overridden = _override.get()
    return _enabled if overridden is None else overridden


def set_enabled(enabled: bool) -> None:
    """Turn all fast paths on or off, in every thread.

    What is compiled already stays as it is. Inside a `switched` block, what that block
    says stays in force until its end.
    """
    global _enabled
    _enabled = bool(enabled)


@contextmanager
def switched(enabled: bool) -> Iterator[None]:
    """Turn all fast paths on or off inside a `with` block.

    It holds in the thread, or the asynchronous task, that runs the block: others beside
    it are not affected.

    Example:

    >>> with switched(False):
    ...     fast_paths_enabled = enabled()
    >>> fast_paths_enabled
    False
    """
    token = _override.set(bool(enabled))
    try:
        yield
    finally:
        _override.reset(token)


def keep_freed_memory() -> None:
    """Has the C library keep the memory of freed maps for the next ones, on torch.

    For programs of which inference with torch on CPUs is the main work, to be called
    once: it holds for the whole process, which then keeps up to 64 MiB that it does not
    use. On another backend than torch it does nothing.

    torch frees maps as soon as the next layer is through. glibc hands such memory back
    to the system unless larger pieces were freed before, and fetching it anew costs
    time, page by page. It goes by the largest piece that it saw freed, up to 32 MiB:
    here it is shown one, whose pages are never touched.

    Seen with: glibc 2.36; torch 2.13.0.
    Gain: up to a tenth of an inference of a batch of four, or nothing, by chance.
    """
    if keras.backend.backend() == "torch":
        import torch

        torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")
