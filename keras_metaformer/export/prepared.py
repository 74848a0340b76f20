"""What every converter does first, on any backend."""

import keras

from keras_metaformer.inference.folding import LayerCopyError, fold, is_graph


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
