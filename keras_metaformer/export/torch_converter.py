"""The conversion to a program of `torch.export`, on Keras' PyTorch backend."""

from pathlib import Path
from typing import Any

import keras
import torch

from keras_metaformer.export.prepared import exporting, folded, input_signature


def convert_into(model: keras.Model, request: dict[str, Any], folder: Path) -> Path:
    """Convert a model, and write the result into a folder.

    Args:
        model: the model, which stays as it is; of images of one size.
        request: `form`: `"pt2"`.
        folder: where to.

    Returns:
        The path of the result.

    Raises:
        ExportError: if the model cannot be converted.
    """
    result = folder / f"result.{request['form']}"
    model = folded(model)
    failure = "torch.export cannot export the model"
    with exporting(model, failure), torch.no_grad():
        model.export(
            result,
            format="torch",
            verbose=False,
            input_signature=input_signature(model),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
    return result
