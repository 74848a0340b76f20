"""Making models cheaper to run without changing what they compute."""

from keras_metaformer.inference.folding import fold

__all__ = ["fold"]
