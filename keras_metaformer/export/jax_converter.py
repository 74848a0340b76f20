"""The conversion to StableHLO by `jax.export`, on Keras' JAX backend."""

from pathlib import Path
from typing import Any

import jax
import keras
from jax import export

from keras_metaformer.export.prepared import exporting, folded

#: What a file runs on, whichever of them wrote it.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def convert_into(model: keras.Model, request: dict[str, Any], folder: Path) -> Path:
    """Convert a model, and write the result into a folder.

    Args:
        model: the model, which stays as it is; of images of one size.
        request: `form`: `"stablehlo"`.
        folder: where to.

    Returns:
        The path of the result.

    Raises:
        ExportError: if the model cannot be converted.
    """
    result = folder / f"result.{request['form']}"
    prepared: Any = folded(model)
    (image,) = prepared.inputs
    (batch,) = export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype)

    @jax.jit
    def predict(images):
        return prepared(images, training=False)

    with exporting(model, "jax.export cannot export the model"):
        content = export.export(predict, platforms=PLATFORMS)(shape).serialize()
    result.write_bytes(content)
    return result
