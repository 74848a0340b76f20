"""ConvFormer: separable convolutions as the token mixer.

Paper: MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
Official code: https://github.com/sail-sg/metaformer (Apache-2.0)
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.applications.metaformer_baselines import (
    CONVOLUTION_SIZES,
    baseline_family,
)
from keras_metaformer.models.families import define_variant
from keras_metaformer.models.metaformer import METAFORMER

FAMILY = baseline_family(
    METAFORMER,
    module="convformer",
    title="ConvFormer",
    summary="a MetaFormer whose token mixer is a separable convolution.",
    mixer="separable_convolution",
    norm="layer_norm",
    head="mlp",
    sizes=CONVOLUTION_SIZES,
)

ConvFormerS18 = define_variant(FAMILY, "S18", 26_774_448, 3_940_984_320)
ConvFormerS36 = define_variant(FAMILY, "S36", 40_012_152, 7_639_683_072)
ConvFormerM36 = define_variant(FAMILY, "M36", 57_051_640, 12_842_333_568)
ConvFormerB36 = define_variant(FAMILY, "B36", 99_882_616, 22_629_413_376)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
