"""The conversion itself, on Keras' TensorFlow backend."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_metaformer.export.convert import SIGNATURE, GraphOptions, ends_in_softmax
from keras_metaformer.export.errors import ExportError
from keras_metaformer.export.flatbuffer import TFLiteFile
from keras_metaformer.export.graph import Value, is_traced, lower_model
from keras_metaformer.inference.folding import fold


def convert_in_process(model: keras.Model, options: GraphOptions) -> bytes:
    """The float32 file of a model, with input `image` and one named output.

    Raises:
        ExportError: if the model cannot be converted to TFLite's own operators.
    """
    model = _folded(model)
    probabilities = ends_in_softmax(model)
    if options.output == "logits" and probabilities:
        model, probabilities = _without_softmax(model), False
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
        result = lower_model(model, value).computed()
        return tf.nn.softmax(result) if add_softmax else result

    try:
        function = run.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function], tf.Module()
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        with _quiet():
            content = converter.convert()
    except Exception as error:  # The converter raises many kinds.
        raise ExportError(_explanation(model, error)) from error
    file = TFLiteFile(content)
    output = "probabilities" if probabilities or add_softmax else "logits"
    file.name_signature(SIGNATURE, "image", output)
    return file.content()


def _folded(model: keras.Model) -> keras.Model:
    try:
        return fold(model)
    except Exception:  # No functional model, or layers of the user's own inside.
        return model


def _without_softmax(model: keras.Model) -> keras.Model:
    last = model.layers[-1]
    if isinstance(last, keras.layers.Dense):
        last.activation = keras.activations.linear
        return model
    raise ExportError(
        "Logits can be had of a model that ends in a Dense layer with softmax. "
        f"Received: a model that ends in {type(last).__name__}"
    )


def _explanation(model: keras.Model, error: Exception) -> str:
    operators = sorted(set(re.findall(r"\btf\.(\w+)\b", str(error))))
    unknown = [
        f"{type(layer).__name__} ({layer.name!r})"
        for layer in model._flatten_layers(include_self=False)
        if type(layer).__module__.split(".")[0] not in ("keras", "keras_metaformer")
        and is_traced(layer)
    ]
    message = "The model cannot be converted to TFLite's own operators."
    if operators:
        message += f" TFLite has none for: {', '.join(operators)}."
    if unknown:
        message += f" Layers that the package does not know: {', '.join(unknown)}."
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{message} {type(error).__name__}: {lines[0] if lines else ''}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Sends what the converter's C++ writes to stderr to nowhere."""
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
