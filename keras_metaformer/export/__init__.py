"""Models for the device: LiteRT (TFLite) files and a runner, and other forms."""

from keras_metaformer.export.litert import to_litert
from keras_metaformer.export.other_formats import (
    to_onnx,
    to_openvino,
    to_pt2,
    to_saved_model,
    to_stablehlo,
)
from keras_metaformer.export.report import ExportReport
from keras_metaformer_lite.litert.errors import ExportError, ModelFileError
from keras_metaformer_lite.litert.runner import LiteRTModel

__all__ = [
    "ExportError",
    "ExportReport",
    "LiteRTModel",
    "ModelFileError",
    "to_litert",
    "to_onnx",
    "to_openvino",
    "to_pt2",
    "to_saved_model",
    "to_stablehlo",
]
