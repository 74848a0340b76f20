"""Maps of every level, embeddings, and what stays frozen."""

from keras_metaformer.features.embedding import embeddings
from keras_metaformer.features.extractor import FeatureExtractor, feature_extractor
from keras_metaformer.features.freezing import freeze

__all__ = ["FeatureExtractor", "embeddings", "feature_extractor", "freeze"]
