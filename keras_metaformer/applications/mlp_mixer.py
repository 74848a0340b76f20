"""MLP-Mixer: an MLP over the tokens, then one over the channels.

Paper: MLP-Mixer: An all-MLP Architecture for Vision, https://arxiv.org/abs/2105.01601
Official code: https://github.com/google-research/vision_transformer (Apache-2.0)
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.models.families import Family, define_variant
from keras_metaformer.models.metaformer import ISOTROPIC

FAMILY = Family(
    module="mlp_mixer",
    title="MLPMixer",
    summary="an isotropic model with MLPs over tokens and over channels.",
    reference=(
        "MLP-Mixer: An all-MLP Architecture for Vision, "
        "https://arxiv.org/abs/2105.01601"
    ),
    builder=ISOTROPIC,
    sizes={
        "S32": {"depth": 8, "width": 512, "patch_size": 32},
        "S16": {"depth": 8, "width": 512, "patch_size": 16},
        "S8": {"depth": 8, "width": 512, "patch_size": 8},
        "B32": {"depth": 12, "width": 768, "patch_size": 32},
        "B16": {"depth": 12, "width": 768, "patch_size": 16},
        "L32": {"depth": 24, "width": 1024, "patch_size": 32},
        "L16": {"depth": 24, "width": 1024, "patch_size": 16},
        "H14": {"depth": 32, "width": 1280, "patch_size": 14},
    },
    # The official code uses GELU's tanh approximation, timm the exact form.
    defaults={
        "mixer": "token_mlp",
        "activation": "gelu_tanh",
        "initialization": "mlp_mixer",
        "stochastic_depth_schedule": "constant",
    },
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

MLPMixerS32 = define_variant(FAMILY, "S32", 19_104_624, 1_002_426_368)
MLPMixerS16 = define_variant(FAMILY, "S16", 18_528_264, 3_776_958_464)
MLPMixerS8 = define_variant(FAMILY, "S8", 20_646_504, 14_875_086_848)
MLPMixerB32 = define_variant(FAMILY, "B32", 60_293_428, 3_237_722_112)
MLPMixerB16 = define_variant(FAMILY, "B16", 59_880_472, 12_601_767_936)
MLPMixerL32 = define_variant(FAMILY, "L32", 206_939_264, 11_253_293_056)
MLPMixerL16 = define_variant(FAMILY, "L16", 208_196_168, 44_547_678_208)
MLPMixerH14 = define_variant(FAMILY, "H14", 432_350_952, 120_989_911_040)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
