"""PoolFormerV2: pooling as the token mixer, with StarReLU and ResScale.

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
    module="poolformerv2",
    title="PoolFormerV2",
    summary="a MetaFormer whose token mixer is average pooling.",
    mixer="pooling",
    norm="group_norm",
    head="linear",
    sizes=POOLING_SIZES,
)

PoolFormerV2S12 = define_variant(FAMILY, "S12", 11_891_712, 1_812_267_008)
PoolFormerV2S24 = define_variant(FAMILY, "S24", 21_341_464, 3_392_208_896)
PoolFormerV2S36 = define_variant(FAMILY, "S36", 30_791_216, 4_972_150_784)
PoolFormerV2M36 = define_variant(FAMILY, "M36", 56_077_168, 8_758_788_096)
PoolFormerV2M48 = define_variant(FAMILY, "M48", 73_346_056, 11_533_320_192)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
