"""Composite layers: what the model builders put together."""

from keras_metaformer.blocks.downsampling import Downsampling
from keras_metaformer.blocks.metaformer_block import MetaFormerBlock
from keras_metaformer.blocks.patch_merging import PatchMerging
from keras_metaformer.blocks.residual_branch import ResidualBranch
from keras_metaformer.layers.mixers.channel_mlp import ChannelMLP

__all__ = [
    "ChannelMLP",
    "Downsampling",
    "MetaFormerBlock",
    "PatchMerging",
    "ResidualBranch",
]
