"""Images, data sets and augmentation, and the data that the package and its demo use.

All of it needs no Keras and stands in `keras_metaformer_lite`: the processes that read
and augment images import nothing but NumPy and Pillow.
"""

from keras_metaformer_lite.classes import class_names
from keras_metaformer_lite.data.augmentation import Augmentation
from keras_metaformer_lite.data.batches import EvaluationBatches, TrainingBatches
from keras_metaformer_lite.data.errors import DataError, WorkerError
from keras_metaformer_lite.data.random_augment import RandAugment
from keras_metaformer_lite.data.sources import Source, open_source, split_source
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import (
    EvaluationTransform,
    ImageError,
    expand_images,
    load_image,
)

__all__ = [
    "Augmentation",
    "DataError",
    "EvaluationBatches",
    "EvaluationTransform",
    "ImageDescription",
    "ImageError",
    "RandAugment",
    "Source",
    "TrainingBatches",
    "WorkerError",
    "class_names",
    "expand_images",
    "load_image",
    "open_source",
    "split_source",
]
