"""ResMLP: a linear layer over the tokens, then an MLP over the channels; no norms.

Paper: ResMLP: Feedforward networks for image classification with data-efficient
training, https://arxiv.org/abs/2105.03404
Official code: https://github.com/facebookresearch/deit (Apache-2.0)
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.models.families import Family, define_variant
from keras_metaformer.models.metaformer import ISOTROPIC


def _size(depth: int, width: int, patch_size: int, layer_scale: float) -> dict:
    return {
        "depth": depth,
        "width": width,
        "patch_size": patch_size,
        "layer_scale_initial_value": layer_scale,
    }


FAMILY = Family(
    module="resmlp",
    title="ResMLP",
    summary="an isotropic model with a linear layer over tokens and no norms.",
    reference=(
        "ResMLP: Feedforward networks for image classification with data-efficient "
        "training, https://arxiv.org/abs/2105.03404"
    ),
    builder=ISOTROPIC,
    sizes={
        "12": _size(12, 384, 16, layer_scale=0.1),
        "24": _size(24, 384, 16, layer_scale=1e-5),
        "36": _size(36, 384, 16, layer_scale=1e-6),
        "B24": _size(24, 768, 8, layer_scale=1e-6),
    },
    defaults={
        "mixer": "cross_patch_linear",
        "norm": "affine",
        "output_norm": "affine",
        "residual_scaling": "layer",
        "initialization": "poolformer",
        "stochastic_depth_schedule": "constant",
    },
)

ResMLP12 = define_variant(FAMILY, "12", 15_350_872, 3_009_739_776)
ResMLP24 = define_variant(FAMILY, "24", 30_020_680, 5_961_292_800)
ResMLP36 = define_variant(FAMILY, "36", 44_690_488, 8_912_845_824)
ResMLPB24 = define_variant(FAMILY, "B24", 129_138_280, 100_230_739_968)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
