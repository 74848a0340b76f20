"""Whole models from files and folders, and into them."""

from keras_metaformer.sharing.sources import load, save

__all__ = ["load", "save"]
