"""Hides TensorFlow from a process on another backend, as where it is not installed.

Keras imports it where it is, to save a model: that doubles the time that a process
takes to start, and its memory.
"""

import os
import sys
from importlib.machinery import PathFinder


class _Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname == "tensorflow":
            return None
        return super().find_spec(fullname, path, target)


def hide() -> None:
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        sys.meta_path[:] = [
            _Finder if finder is PathFinder else finder for finder in sys.meta_path
        ]
