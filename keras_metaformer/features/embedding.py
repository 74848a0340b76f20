"""Images as vectors."""

from typing import Any

import keras
import numpy as np

from keras_metaformer.features.extractor import of_features
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer.models.nodes import output_in
from keras_metaformer.models.pyramid_model import PyramidModel, description_of
from keras_metaformer_lite.description import ImageDescription

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
    layer = pooled_layer(model)
    if layer is None:
        raise ValueError(
            "Embeddings are what is pooled before the classifier: build the model with "
            "its top, or with include_top=False and pooling='avg'. "
            f"Received: model={model.name!r}"
        )
    pooled = output_in(model, layer)
    return PyramidModel(
        model.inputs[0],
        pooled,
        name=f"{model.name}_embedding",
        image_description=of_features(description_of(model)),
    )


def pooled_layer(model: keras.Model) -> keras.layers.Layer | None:
    """What gives the pooled and normalised features of a functional model, if any."""
    pooled: Any = None
    for layer in model.layers if hasattr(model, "_nodes_by_depth") else ():
        is_norm_of_pooled = pooled is not None and layer.name == "output_norm"
        if isinstance(layer, _POOLING) or is_norm_of_pooled:
            pooled = layer
    return pooled


def embeddings(
    model: keras.Model, images: Any, batch_size: int = 32, *, transform: Any = None
) -> np.ndarray:
    """Images as vectors: what the classifier of a model would see of them.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.PoolFormerS12(weights=None)
    >>> embeddings(model, np.zeros((2, 224, 224, 3), "float32")).shape
    (2, 512)

    Args:
        model: model of this library, with its top or with `pooling`.
        images: float array `(number, height, width, channels)`, as the model takes it;
            or a sequence of paths, Pillow images and uint8 arrays `(height, width, 3)`
            of any sizes, which are prepared as the model's `image_description` says.
        batch_size: int. So many images at once.
        transform: callable from such an image to what the model takes, instead of the
            description's `prepare`.

    Returns:
        float32 array `(number, channels)`, pooled and normalised as before the head.

    Raises:
        ValueError: if the model pools nothing, the images do not fit it, or it is not
            known how to prepare them.
        ImageError: if one cannot be read.
    """
    vectors = embedding_model(model)
    if is_batch(images):
        found = vectors.predict(images, batch_size=batch_size, verbose=0)
        return np.asarray(found, "float32")
    transform = transform or preparing(description_of(vectors), images)
    positive_integer("batch_size", batch_size)
    images, found = list(images), []
    for start in range(0, len(images), batch_size):
        chosen = images[start : start + batch_size]
        batch = np.stack([transform(image) for image in chosen])
        # Always as many: a batch of another size would be compiled anew.
        missing = min(batch_size, len(images)) - len(batch)
        batch = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
        found.append(np.asarray(vectors.predict_on_batch(batch))[: len(chosen)])
    if not found:
        return np.zeros((0, vectors.output_shape[-1]), "float32")
    return np.concatenate(found).astype("float32")


def is_batch(images: Any) -> bool:
    """Whether it is a float array of four axes, which a model takes as it is."""
    shape = getattr(images, "shape", ())
    return len(shape) == 4 and np.issubdtype(np.asarray(images).dtype, np.floating)


def preparing(description: ImageDescription | None, images: Any) -> Any:
    """What prepares images of any size for a model.

    Args:
        description: what the model knows of its images, or None.
        images: for the error.

    Raises:
        ValueError: if it knows nothing.
    """
    if description is None:
        raise ValueError(
            "The model has no `image_description` by which images could be "
            "prepared: set it, give `transform`, or pass a float array "
            "(number, height, width, channels). "
            f"Received: images of type {type(images).__name__}"
        )
    return description.prepare
