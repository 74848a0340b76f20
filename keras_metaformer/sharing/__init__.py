"""Whole models from files, folders and the Hugging Face hub, and into them."""

from keras_metaformer.sharing.hugging_face import UploadError
from keras_metaformer.sharing.sources import load, save
from keras_metaformer_lite.weights.download import DownloadError

__all__ = ["DownloadError", "UploadError", "load", "save"]
