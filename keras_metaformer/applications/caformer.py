"""CAFormer: convolutions in the first two stages, self-attention in the others.

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
    module="caformer",
    title="CAFormer",
    summary="a MetaFormer with separable convolutions, then self-attention.",
    mixer=(
        "separable_convolution",
        "separable_convolution",
        "self_attention",
        "self_attention",
    ),
    norm="layer_norm",
    head="mlp",
    sizes=CONVOLUTION_SIZES,
)

CAFormerS18 = define_variant(FAMILY, "S18", 26_341_656, 4_106_941_440)
CAFormerS36 = define_variant(FAMILY, "S36", 39_297_102, 7_971_597_312)
CAFormerM36 = define_variant(FAMILY, "M36", 56_204_878, 13_240_630_656)
CAFormerB36 = define_variant(FAMILY, "B36", 98_753_614, 23_160_476_160)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
