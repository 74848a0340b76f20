"""Images as vectors."""

from typing import Any

import keras
import numpy as np

from keras_metaformer.models.nodes import output_in
from keras_metaformer.models.pyramid_model import PyramidModel

_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)


def embedding_model(model: keras.Model) -> PyramidModel:
    """The part of a model that makes vectors of images, without its classifier.

    Args:
        model: functional model of this library, with its top or with `pooling`.

    Returns:
        A model from the image to the pooled and normalised features `(batch,
        channels)`, of the same layers.

    Raises:
        ValueError: if the model pools nothing.
    """
    pooled: Any = None
    for layer in model.layers if hasattr(model, "_nodes_by_depth") else ():
        if isinstance(layer, _POOLING):
            pooled = output_in(model, layer)
        elif pooled is not None and layer.name == "output_norm":
            pooled = output_in(model, layer)
    if pooled is None:
        raise ValueError(
            "Embeddings are what is pooled before the classifier: build the model with "
            "its top, or with include_top=False and pooling='avg'. "
            f"Received: model={model.name!r}"
        )
    return PyramidModel(model.inputs[0], pooled, name=f"{model.name}_embedding")


def embeddings(model: keras.Model, images: Any, batch_size: int = 32) -> np.ndarray:
    """Images as vectors: what the classifier of a model would see of them.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.PoolFormerS12(weights=None)
    >>> embeddings(model, np.zeros((2, 224, 224, 3), "float32")).shape
    (2, 512)

    Args:
        model: model of this library, with its top or with `pooling`.
        images: float array `(number, height, width, channels)`, as the model takes it.
        batch_size: int. So many images at once.

    Returns:
        float32 array `(number, channels)`, pooled and normalised as before the head.

    Raises:
        ValueError: if the model pools nothing, or the images do not fit it.
    """
    vectors = embedding_model(model)
    images = np.asarray(images)
    return np.asarray(vectors.predict(images, batch_size=batch_size, verbose=0))
