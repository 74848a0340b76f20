"""Reading images, and the data that the package and its demo use."""

from keras_metaformer.data.classes import class_names
from keras_metaformer_lite.images import (
    EvaluationTransform,
    ImageError,
    expand_images,
    load_image,
)

__all__ = [
    "EvaluationTransform",
    "ImageError",
    "class_names",
    "expand_images",
    "load_image",
]
