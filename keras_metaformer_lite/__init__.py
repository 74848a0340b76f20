"""What of keras_metaformer needs no Keras, in the same wheel.

Running `.tflite` files, reading images, the lists of models and weights, and the
command `keras-metaformer`. Those who have Keras find the same in `keras_metaformer`.
"""

from keras_metaformer_lite.images import EvaluationTransform, ImageError, load_image
from keras_metaformer_lite.listing import list_models
from keras_metaformer_lite.litert.errors import ModelFileError
from keras_metaformer_lite.litert.runner import LiteRTModel
from keras_metaformer_lite.weights.catalogue import list_weights

__version__ = "0.1.0"

__all__ = [
    "EvaluationTransform",
    "ImageError",
    "LiteRTModel",
    "ModelFileError",
    "list_models",
    "list_weights",
    "load_image",
]
