"""Where a loss that is not finite comes from."""

from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.training.loop import Loop, NonFiniteLossError
from keras_metaformer_lite.data.batches import TrainingBatches

_SHOWN = 8


def explain(loop: Loop, batches: TrainingBatches, error: NonFiniteLossError) -> str:
    """Goes to the step again, from the checkpoint, and looks at each layer.

    Args:
        loop: the run, which is over with this.
        batches: its training data.
        error: what ended it.

    Returns:
        Sentences for the user: the layer, the batch's files, and what may help.
    """
    loop.replay(error.epoch, error.step)
    images, targets = next(batches.epoch(error.epoch, error.step))
    found, advice = _first_cause(loop.classifier, images, targets)
    names = [batches.source.name(i) for i in batches.indices(error.epoch, error.step)]
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{found} The batch: {shown}{more}. {advice}"


def _first_cause(
    model: keras.Model, images: np.ndarray, targets: np.ndarray
) -> tuple[str, str]:
    if not np.isfinite(images).all():
        rows = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        return (
            f"The images of the batch at places {rows.tolist()} are not finite.",
            "Look at these files and at the augmentation.",
        )
    if not np.isfinite(targets).all():
        return "The targets of the batch are not finite.", "Look at the labels."
    lower_rate = (
        "A lower learning rate, a longer warmup or clipped gradients (`clip_norm`) "
        "help as a rule"
    )
    half = model.dtype_policy.compute_dtype != "float32" or any(
        layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers
    )
    advice = f"{lower_rate}{', and so does dtype float32' if half else ''}."
    spoilt = [
        variable.path
        for variable in model.variables
        if not np.isfinite(to_numpy(variable.value).astype("float64")).all()
    ]
    if spoilt:
        return (
            f"The update before left weights that are not finite: {spoilt[0]}"
            + (f" and {len(spoilt) - 1} more." if len(spoilt) > 1 else "."),
            advice,
        )
    layers = [layer for layer in model.layers if _is_step(layer)]
    probe = keras.Model(model.inputs, [layer.output for layer in layers])
    outputs: Any = probe(keras.ops.convert_to_tensor(images), training=True)
    for layer, output in zip(layers, outputs, strict=True):
        values = to_numpy(output).astype("float32")
        if not np.isfinite(values).all():
            return (
                f"The first layer with values that are not finite is {layer.name!r} "
                f"({type(layer).__name__}, of {layer.compute_dtype}).",
                advice,
            )
    return (
        "Every layer gives finite values: the loss itself is not finite, or it comes "
        "from draws of dropout that differ.",
        advice,
    )


def _is_step(layer: Any) -> bool:
    return not isinstance(layer, keras.layers.InputLayer) and isinstance(
        layer.output, keras.KerasTensor
    )
