"""PoolFormer: pooling as the token mixer, the first MetaFormer.

Paper: MetaFormer Is Actually What You Need for Vision, https://arxiv.org/abs/2111.11418
Official code: https://github.com/sail-sg/poolformer (Apache-2.0)
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.applications.metaformer_baselines import POOLING_SIZES
from keras_metaformer.models.families import Family, define_variant
from keras_metaformer.models.metaformer import METAFORMER

# Deeper models start nearer to the identity.
_LAYER_SCALE = {"S12": 1e-5, "S24": 1e-5, "S36": 1e-6, "M36": 1e-6, "M48": 1e-6}

FAMILY = Family(
    module="poolformer",
    title="PoolFormer",
    summary="the first MetaFormer; its token mixer is average pooling.",
    reference=(
        "MetaFormer Is Actually What You Need for Vision, "
        "https://arxiv.org/abs/2111.11418"
    ),
    builder=METAFORMER,
    sizes={
        size: {**shape, "layer_scale_initial_value": _LAYER_SCALE[size]}
        for size, shape in POOLING_SIZES.items()
    },
    defaults={
        "mixer": "pooling",
        "activation": "gelu",
        "norm": "group_norm",
        "norm_epsilon": 1e-5,
        "residual_scaling": "layer",
        "use_bias": True,
        "downsampling_norm": "identity",
        "output_norm": "group_norm",
        "normalize_before_pooling": True,
        "initialization": "poolformer",
    },
)

PoolFormerS12 = define_variant(FAMILY, "S12", 11_915_176, 1_812_267_008)
PoolFormerS24 = define_variant(FAMILY, "S24", 21_388_968, 3_392_208_896)
PoolFormerS36 = define_variant(FAMILY, "S36", 30_862_760, 4_972_150_784)
PoolFormerM36 = define_variant(FAMILY, "M36", 56_172_520, 8_758_788_096)
PoolFormerM48 = define_variant(FAMILY, "M48", 73_473_448, 11_533_320_192)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
