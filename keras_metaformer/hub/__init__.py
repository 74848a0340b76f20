"""Models of this library as KerasHub's own: an extra, `keras-metaformer[hub]`."""

try:
    import keras_hub as _keras_hub  # noqa: F401
except ImportError as error:
    raise ImportError(
        "`keras_metaformer.hub` needs KerasHub, which is an extra: "
        f'pip install "keras-metaformer[hub]". Received: {error}'
    ) from error

from keras_metaformer.hub.backbone import MetaFormerBackbone
from keras_metaformer.hub.classifier import MetaFormerImageClassifier
from keras_metaformer.hub.preprocessing import (
    MetaFormerImageClassifierPreprocessor,
    MetaFormerImageConverter,
)

__all__ = [
    "MetaFormerBackbone",
    "MetaFormerImageClassifier",
    "MetaFormerImageClassifierPreprocessor",
    "MetaFormerImageConverter",
]
