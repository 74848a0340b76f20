"""MetaFormers in Keras 3, on TensorFlow, JAX and PyTorch."""

from keras_metaformer import applications, blocks, export, layers
from keras_metaformer.applications.caformer import (
    CAFormerB36,
    CAFormerM36,
    CAFormerS18,
    CAFormerS36,
)
from keras_metaformer.applications.convformer import (
    ConvFormerB36,
    ConvFormerM36,
    ConvFormerS18,
    ConvFormerS36,
)
from keras_metaformer.applications.ffnet import FFNet1, FFNet2, FFNet3, FFNet4
from keras_metaformer.applications.gmlp import GMLPB16, GMLPS16, GMLPTi16
from keras_metaformer.applications.identityformer import (
    IdentityFormerM36,
    IdentityFormerM48,
    IdentityFormerS12,
    IdentityFormerS24,
    IdentityFormerS36,
)
from keras_metaformer.applications.mlp_mixer import (
    MLPMixerB16,
    MLPMixerB32,
    MLPMixerL16,
    MLPMixerL32,
    MLPMixerS8,
    MLPMixerS16,
    MLPMixerS32,
)
from keras_metaformer.applications.poolformer import (
    PoolFormerM36,
    PoolFormerM48,
    PoolFormerS12,
    PoolFormerS24,
    PoolFormerS36,
)
from keras_metaformer.applications.poolformerv2 import (
    PoolFormerV2M36,
    PoolFormerV2M48,
    PoolFormerV2S12,
    PoolFormerV2S24,
    PoolFormerV2S36,
)
from keras_metaformer.applications.randformer import (
    RandFormerM36,
    RandFormerM48,
    RandFormerS12,
    RandFormerS24,
    RandFormerS36,
)
from keras_metaformer.applications.resmlp import ResMLP12, ResMLP24, ResMLP36, ResMLPB24
from keras_metaformer.inference.folding import fold
from keras_metaformer.layers import MetaMixer
from keras_metaformer.models.isotropic import IsotropicMetaFormer
from keras_metaformer.models.listing import list_models
from keras_metaformer.models.metaformer import MetaFormer
from keras_metaformer.weights.catalogue import list_weights
from keras_metaformer.weights.porting import port_weights, to_state_dict
from keras_metaformer.weights.readers import read_checkpoint
from keras_metaformer.weights.transforms import transforms_for

__version__ = "0.1.0"

__all__ = [
    "GMLPB16",
    "GMLPS16",
    "CAFormerB36",
    "CAFormerM36",
    "CAFormerS18",
    "CAFormerS36",
    "ConvFormerB36",
    "ConvFormerM36",
    "ConvFormerS18",
    "ConvFormerS36",
    "FFNet1",
    "FFNet2",
    "FFNet3",
    "FFNet4",
    "GMLPTi16",
    "IdentityFormerM36",
    "IdentityFormerM48",
    "IdentityFormerS12",
    "IdentityFormerS24",
    "IdentityFormerS36",
    "IsotropicMetaFormer",
    "MLPMixerB16",
    "MLPMixerB32",
    "MLPMixerL16",
    "MLPMixerL32",
    "MLPMixerS8",
    "MLPMixerS16",
    "MLPMixerS32",
    "MetaFormer",
    "MetaMixer",
    "PoolFormerM36",
    "PoolFormerM48",
    "PoolFormerS12",
    "PoolFormerS24",
    "PoolFormerS36",
    "PoolFormerV2M36",
    "PoolFormerV2M48",
    "PoolFormerV2S12",
    "PoolFormerV2S24",
    "PoolFormerV2S36",
    "RandFormerM36",
    "RandFormerM48",
    "RandFormerS12",
    "RandFormerS24",
    "RandFormerS36",
    "ResMLP12",
    "ResMLP24",
    "ResMLP36",
    "ResMLPB24",
    "applications",
    "blocks",
    "export",
    "fold",
    "layers",
    "list_models",
    "list_weights",
    "port_weights",
    "read_checkpoint",
    "to_state_dict",
    "transforms_for",
]
