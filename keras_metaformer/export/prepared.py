"""What every converter does first, on any backend."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_metaformer.inference.folding import LayerCopyError, fold, is_graph
from keras_metaformer.layers import fast_paths
from keras_metaformer_lite.litert.errors import ExportError


def folded(model: keras.Model) -> keras.Model:
    """The model folded, or as it is where layers of the user's cannot be copied."""
    if not is_graph(model):
        return model
    try:
        return fold(model)
    except LayerCopyError:
        return model


def input_signature(model: keras.Model) -> list[keras.InputSpec]:
    """What a model takes: Keras' exporters refuse one that was never called without it.

    Args:
        model: functional or sequential.
    """
    return [
        keras.InputSpec(shape=image.shape, dtype=image.dtype, name=image.name)
        for image in model.inputs
    ]


@contextmanager
def exporting(model: keras.Model, failure: str) -> Iterator[None]:
    """Let someone else's exporter run on plain operations, which every reader knows.

    Args:
        model: what is exported, for the message.
        failure: how the message begins.

    Raises:
        ExportError: with the reason, whatever it raised: exporters have many kinds.
    """
    try:
        with fast_paths.switched(False):
            yield
    except Exception as error:
        raise ExportError(
            f"{failure}: {type(error).__name__}: {error}. "
            f"Received: model={model.name!r}"
        ) from error
