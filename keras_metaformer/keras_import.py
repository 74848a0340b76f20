"""Noticing that Keras is imported, without importing it."""

import copy
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]


def when_keras_is_imported(action: Callable[[], object]) -> None:
    """Calls a function when Keras is there: now, or once it has been imported.

    If a module of this package is what imports Keras, the call waits for the end of
    that import, so that `action` may import any module of the package: none is half
    done by then.

    Args:
        action: called once, without arguments.
    """
    if "keras" in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Watcher(action))


class _Watcher:
    """A finder that leaves the finding to the others, and sees when imports end."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._imports_under_way = 0

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if name != "keras" and not name.startswith(f"{_PACKAGE}."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            # A copy, because a zip file has one loader for all that is in it.
            loader: Any = copy.copy(spec.loader)
            loader.exec_module = self._watched(loader.exec_module)
            spec.loader = loader
        return spec

    def _watched(
        self, execute: Callable[[ModuleType], None]
    ) -> Callable[[ModuleType], None]:
        def watched(module: ModuleType) -> None:
            self._imports_under_way += 1
            try:
                execute(module)
            finally:
                self._imports_under_way -= 1
            done = not self._imports_under_way and "keras" in sys.modules
            if done and self in sys.meta_path:
                sys.meta_path.remove(self)
                self._action()

        return watched
