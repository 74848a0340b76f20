"""MetaFormers in Keras 3, on TensorFlow, JAX and PyTorch."""

from typing import TYPE_CHECKING, Any

from keras_metaformer_lite import __version__ as __version__
from keras_metaformer_lite.backends import check_backend
from keras_metaformer_lite.names import question

try:
    from keras_metaformer import api
    from keras_metaformer.api import *  # noqa: F403
except ModuleNotFoundError:
    check_backend()  # Keras' error says neither what to set nor what is installed.
    raise

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name for name in vars(api) if not name.startswith("_")
]


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


if not TYPE_CHECKING:  # which finds misspelt names itself

    def __getattr__(name: str) -> Any:
        hint = question(name, __all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}")
