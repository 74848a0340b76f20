"""Keras layers of the MetaFormer families."""

from keras_metaformer.layers.activations.gelu import GELU
from keras_metaformer.layers.activations.squared_relu import SquaredReLU
from keras_metaformer.layers.activations.star_relu import StarReLU
from keras_metaformer.layers.batch_normalized import (
    BatchNormalized,
    BatchNormalizedSkip,
)
from keras_metaformer.layers.class_token import ClassToken, FirstToken
from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.mixers.channel_mlp import ChannelMLP
from keras_metaformer.layers.mixers.convnext_channel_mixer import ConvNeXtChannelMixer
from keras_metaformer.layers.mixers.convolution_mixer import ConvolutionMixer
from keras_metaformer.layers.mixers.cross_patch_linear import CrossPatchLinear
from keras_metaformer.layers.mixers.depthwise_separable_mixer import (
    DepthwiseSeparableMixer,
)
from keras_metaformer.layers.mixers.ffnified_attention import FFNifiedAttention
from keras_metaformer.layers.mixers.gated_mlp import GatedMLP
from keras_metaformer.layers.mixers.identity_mixer import IdentityMixer
from keras_metaformer.layers.mixers.meta_mixer import (
    MetaMixer,
    ScaledDotProduct,
    WeightedSum,
)
from keras_metaformer.layers.mixers.pooling_mixer import PoolingMixer
from keras_metaformer.layers.mixers.random_mixer import RandomMixer
from keras_metaformer.layers.mixers.self_attention_mixer import SelfAttentionMixer
from keras_metaformer.layers.mixers.separable_convolution_mixer import (
    SeparableConvolutionMixer,
)
from keras_metaformer.layers.mixers.spatial_gating_unit import SpatialGatingUnit
from keras_metaformer.layers.mixers.token_linear import TokenLinear
from keras_metaformer.layers.mixers.token_mlp import TokenMLP
from keras_metaformer.layers.norms.affine import Affine
from keras_metaformer.layers.norms.image_normalization import ImageNormalization
from keras_metaformer.layers.position_embedding import PositionEmbedding
from keras_metaformer.layers.reparameterizable_depthwise import (
    ReparameterizableDepthwise,
)
from keras_metaformer.layers.scales.layer_scale import LayerScale
from keras_metaformer.layers.scales.res_scale import ResScale
from keras_metaformer.layers.squeeze_excitation import SqueezeExcitation
from keras_metaformer.layers.stochastic_depth import StochasticDepth

__all__ = [
    "GELU",
    "Affine",
    "BatchNormalized",
    "BatchNormalizedSkip",
    "ChannelMLP",
    "ClassToken",
    "Composite",
    "ConvNeXtChannelMixer",
    "ConvolutionMixer",
    "CrossPatchLinear",
    "DepthwiseConvolution",
    "DepthwiseSeparableMixer",
    "Dropout",
    "FFNifiedAttention",
    "FirstToken",
    "GatedMLP",
    "IdentityMixer",
    "ImageNormalization",
    "LayerScale",
    "MetaMixer",
    "PoolingMixer",
    "PositionEmbedding",
    "RandomMixer",
    "ReparameterizableDepthwise",
    "ResScale",
    "ScaledDotProduct",
    "SelfAttentionMixer",
    "SeparableConvolutionMixer",
    "SpatialGatingUnit",
    "SquaredReLU",
    "SqueezeExcitation",
    "StarReLU",
    "StochasticDepth",
    "TokenLinear",
    "TokenMLP",
    "WeightedSum",
]
