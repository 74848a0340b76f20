"""Images, data sets and augmentation, and the data that the package and its demo use.

All of it needs no Keras and stands in `keras_metaformer_lite`: the processes that read
and augment images import nothing but NumPy and Pillow.
"""

from keras_metaformer_lite.classes import class_names
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import (
    EvaluationTransform,
    ImageError,
    expand_images,
    load_image,
)

__all__ = [
    "EvaluationTransform",
    "ImageDescription",
    "ImageError",
    "class_names",
    "expand_images",
    "load_image",
]
