"""gMLP: one gated MLP a block, which mixes tokens and channels at once.

Paper: Pay Attention to MLPs, https://arxiv.org/abs/2105.08050
Weights and configurations: timm, https://github.com/huggingface/pytorch-image-models
(Apache-2.0); the authors published none
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.models.families import Family, define_variant
from keras_metaformer.models.metaformer import ISOTROPIC

FAMILY = Family(
    module="gmlp",
    title="GMLP",
    summary="an isotropic model whose blocks are MLPs with a spatial gate.",
    reference="Pay Attention to MLPs, https://arxiv.org/abs/2105.08050",
    builder=ISOTROPIC,
    sizes={
        "Ti16": {"depth": 30, "width": 128, "patch_size": 16},
        "S16": {"depth": 30, "width": 256, "patch_size": 16},
        "B16": {"depth": 30, "width": 512, "patch_size": 16},
    },
    defaults={
        "mixer": "gated_mlp",
        "channel_mixer": "none",
        "initialization": "mlp_mixer",
        "stochastic_depth_schedule": "constant",
    },
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

GMLPTi16 = define_variant(FAMILY, "Ti16", 5_867_328, 1_328_989_184)
GMLPS16 = define_variant(FAMILY, "S16", 19_422_656, 4_392_060_928)
GMLPB16 = define_variant(FAMILY, "B16", 73_075_392, 15_720_452_096)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
