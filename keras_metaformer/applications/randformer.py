"""RandFormer: tokens mixed by frozen random matrices.

Paper: MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
Official code: https://github.com/sail-sg/metaformer (Apache-2.0)
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.applications.metaformer_baselines import (
    POOLING_SIZES,
    baseline_family,
)
from keras_metaformer.models.families import define_variant
from keras_metaformer.models.metaformer import METAFORMER

FAMILY = baseline_family(
    METAFORMER,
    module="randformer",
    title="RandFormer",
    summary="a MetaFormer whose last stages mix tokens with frozen random matrices.",
    mixer=("identity", "identity", "random", "random"),
    norm="group_norm",
    head="linear",
    sizes=POOLING_SIZES,
)

RandFormerS12 = define_variant(FAMILY, "S12", 12_127_010, 1_888_484_352)
RandFormerS24 = define_variant(FAMILY, "S24", 21_812_060, 3_544_643_584)
RandFormerS36 = define_variant(FAMILY, "S36", 31_497_110, 5_200_802_816)
RandFormerM36 = define_variant(FAMILY, "M36", 56_783_062, 9_035_383_296)
RandFormerM48 = define_variant(FAMILY, "M48", 74_287_248, 11_902_113_792)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
