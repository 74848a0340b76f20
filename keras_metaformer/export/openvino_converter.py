"""The conversion to OpenVINO's format, on Keras' OpenVINO backend."""

from pathlib import Path
from typing import Any

import keras

from keras_metaformer.export.prepared import folded, input_signature
from keras_metaformer.layers import fast_paths
from keras_metaformer_lite.litert.errors import ExportError


def convert_into(model: keras.Model, request: dict[str, Any], folder: Path) -> Path:
    """Convert a model, and write the result into a folder.

    Args:
        model: the model, which stays as it is; of images of one size.
        request: `form`: `"openvino"`.
        folder: where to; the weights stand beside the result, in `result.bin`.

    Returns:
        The path of the result.

    Raises:
        ExportError: if the model cannot be converted.
    """
    result = folder / "result.xml"
    model = folded(model)
    try:
        with fast_paths.switched(False):
            model.export(
                str(result),
                format=request["form"],
                verbose=False,
                input_signature=input_signature(model),
            )
    except Exception as error:  # The exporter raises many kinds.
        raise ExportError(
            "Keras cannot export the model to OpenVINO: "
            f"{type(error).__name__}: {error}"
        ) from error
    return result
