"""What an exported graph adds to a model, and how the model ends."""

import dataclasses
from typing import Any

import keras

from keras_metaformer.inference.folding import is_graph

#: Signature of the file, as Keras and TensorFlow name it.
SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class GraphOptions:
    """What the exported graph adds to the model.

    Attributes:
        input_shape: `(height, width, channels)` of the image.
        mean: per channel, of pixels 0..1, or None where nothing is normalised.
        std: likewise the standard deviation.
        output: `"model"`, `"probabilities"` (softmax of a model that gives logits) or
            `"logits"` (a model without its softmax).
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: str = "model"


def last_operation(model: keras.Model) -> tuple[Any, Any]:
    """The layer or operation that gives a model's output, and its input tensor.

    Of a model that is no graph of layers the last layer, and None.
    """
    if not is_graph(model):
        return model.layers[-1], None
    # A private name, but the only way from a tensor to what made it.
    operation, index, _ = model.outputs[0]._keras_history
    inputs = operation._inbound_nodes[index].input_tensors
    return operation, inputs[0] if inputs else None


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether the model gives probabilities."""
    last, _ = last_operation(model)
    if isinstance(last, keras.Model):
        return ends_in_softmax(last)
    if isinstance(last, keras.layers.Softmax):
        return True
    return getattr(last, "activation", None) is keras.activations.softmax
