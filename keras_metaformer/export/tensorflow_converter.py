"""The conversion itself, on Keras' TensorFlow backend."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_metaformer.export.lowering import Value, is_traced, lower, lower_model
from keras_metaformer.export.options import (
    SIGNATURE,
    GraphOptions,
    ends_in_softmax,
    last_operation,
)
from keras_metaformer.export.prepared import exporting, folded, input_signature
from keras_metaformer.layers.inner_call import is_no_user_class
from keras_metaformer_lite.litert.errors import ExportError
from keras_metaformer_lite.litert.flatbuffer import TFLiteFile

# The converters' messages are silenced, and the fast paths are switched, for all of the
# process: one thread at a time.
_LOCK = threading.Lock()


def convert_into(model: keras.Model, request: dict[str, Any], folder: Path) -> Path:
    """Convert a model, and write the result into a folder.

    Args:
        model: the model, which stays as it is.
        request: `form`: `"tflite"`, `"onnx"`, `"tf_saved_model"` or `"openvino"`, whose
            weights stand beside the result, in `result.bin`. With the first, the
            fields of `GraphOptions` as `options`.
        folder: where to.

    Returns:
        The path of the result.

    Raises:
        ExportError: if the model cannot be converted.
    """
    form = request["form"]
    result = folder / f"result.{'xml' if form == 'openvino' else form}"
    with _LOCK:
        if form == "tflite":
            content = tflite_of(model, GraphOptions(**request["options"]))
            result.write_bytes(content)
        else:
            _export(model, result, form)
    return result


def _export(model: keras.Model, path: Path, form: str) -> None:
    model = folded(model)
    options: dict[str, Any] = {"format": form, "verbose": False}
    options["input_signature"] = input_signature(model)
    with exporting(model, f"Keras cannot export the model to {form!r}"):
        model.export(str(path), **options)


def tflite_of(model: keras.Model, options: GraphOptions) -> bytes:
    """The float32 file of a model, with input `image` and one named output.

    Raises:
        ExportError: if the model cannot be converted to TFLite's own operators.
    """
    model = folded(model)
    probabilities = ends_in_softmax(model)
    parts: list[Any] = [model]
    if options.output == "logits" and probabilities:
        parts, probabilities = _without_softmax(model), False
    add_softmax = options.output == "probabilities" and not probabilities

    @tf.function(
        input_signature=[tf.TensorSpec((1, *options.input_shape), name="image")],
        autograph=False,
    )
    def run(image):
        value = Value(image)
        if options.mean is not None and options.std is not None:
            mean, std = np.array(options.mean), np.array(options.std)
            normalized = value.times(1.0 / (255.0 * std)).plus(-mean / std)
            value = Value(normalized.computed())
        for part in parts:
            graph = isinstance(part, keras.Model)
            value = lower_model(part, value) if graph else lower(part, value)
        result = value.computed()
        return tf.nn.softmax(result) if add_softmax else result

    function = run.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        with _quiet():
            content = converter.convert()
    except Exception as error:  # The converter raises many kinds.
        raise ExportError(_explanation(model, error)) from error
    file = TFLiteFile(content)
    output = "probabilities" if probabilities or add_softmax else "logits"
    file.name_signature(SIGNATURE, "image", output)
    return file.content()


def _without_softmax(model: keras.Model) -> list[Any]:
    """Models and layers that, one after the other, give the model's logits.

    They share the model's layers, which stay as they are.
    """
    last, tensor = last_operation(model)
    if tensor is None:
        raise ExportError(
            "Expected a functional or sequential model for `output='logits'`. "
            f"Received: model={model.name!r} of type {type(model).__name__}"
        )
    before = keras.Model(model.inputs, tensor)
    if isinstance(last, keras.Model):
        return [before, *_without_softmax(last)]
    if isinstance(last, (keras.layers.Softmax, keras.layers.Activation)):
        return [before]
    if not isinstance(last, keras.layers.Dense):
        raise ExportError(
            "Expected a model that ends in a softmax, or a Dense layer with one, for "
            f"`output='logits'`. Received: a model that ends in {type(last).__name__}"
        )
    linear = keras.layers.Dense.from_config(
        {**last.get_config(), "activation": "linear"}
    )
    linear.build(tensor.shape)
    linear.set_weights(last.get_weights())
    return [before, linear]


def _explanation(model: keras.Model, error: Exception) -> str:
    operators = sorted(set(re.findall(r"\btf\.(\w+)\b", str(error))))
    unknown = [
        f"{type(layer).__name__} ({layer.name!r})"
        for layer in model._flatten_layers(include_self=False)
        if not is_no_user_class(type(layer)) and is_traced(layer)
    ]
    message = "The model cannot be converted to TFLite's own operators."
    if operators:
        message += f" TFLite has none for: {', '.join(operators)}."
    if unknown:
        message += f" Layers that the package does not know: {', '.join(unknown)}."
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return f"{message} {said}. Received: model={model.name!r}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what the converter's C++ writes to stderr to nowhere."""
    try:
        stderr = sys.__stderr__.fileno()
    except (AttributeError, OSError, ValueError):
        yield
        return
    saved = os.dup(stderr)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stderr)
        yield
    finally:
        os.dup2(saved, stderr)
        os.close(saved)
        os.close(nowhere)
