"""The switch of the fast paths: other ways to the same numbers, exact to rounding.

Some layers hold a faster form of their formula for some backends and devices. All are
on unless the environment variable `KERAS_METAFORMER_FAST_PATHS` is `0` when the package
is imported; this module turns them off and on afterwards. The switch is read when a
layer is called or traced: a function compiled before keeps the form it was compiled
with.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

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


def backend_module(package: str) -> Any:
    """The module of a package for the backend in use, or None where it has none.

    To be called once, on import: in the call of a layer torch.compile would see it.
    """
    name = f"{package}.{keras.backend.backend()}_backend"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def enabled() -> bool:
    """Whether layers may take their fast paths."""
    return _enabled


def set_enabled(enabled: bool) -> None:
    """Turns all fast paths on or off, in every thread."""
    global _enabled
    _enabled = bool(enabled)


@contextmanager
def switched(enabled: bool) -> Iterator[None]:
    """Turns all fast paths on or off inside a `with` block.

    Example:

    >>> with switched(False):
    ...     _enabled
    False
    """
    before = _enabled
    set_enabled(enabled)
    try:
        yield
    finally:
        set_enabled(before)
