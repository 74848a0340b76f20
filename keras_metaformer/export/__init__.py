"""Models for the device: LiteRT (TFLite) files, ONNX, SavedModel, and a runner.

Names are imported when they are asked for, so that `LiteRTModel` needs no Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_metaformer.export.errors import ExportError, ModelFileError
    from keras_metaformer.export.litert import to_litert
    from keras_metaformer.export.other_formats import to_onnx, to_saved_model
    from keras_metaformer.export.report import ExportReport
    from keras_metaformer.export.runner import LiteRTModel

_MODULES = {
    "ExportError": "errors",
    "ExportReport": "report",
    "LiteRTModel": "runner",
    "ModelFileError": "errors",
    "to_litert": "litert",
    "to_onnx": "other_formats",
    "to_saved_model": "other_formats",
}

__all__ = [
    "ExportError",
    "ExportReport",
    "LiteRTModel",
    "ModelFileError",
    "to_litert",
    "to_onnx",
    "to_saved_model",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
