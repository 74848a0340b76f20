"""The public names, each listed once, here: `x as x` says that it is one.

Nothing else may stand in this module, which `__init__` imports as a whole.
"""

# ruff: noqa: I001 - the names of a module together

from keras_metaformer import (
    applications as applications,
    blocks as blocks,
    explain as explain,
    export as export,
    features as features,
    layers as layers,
    training as training,
)
from keras_metaformer.applications.caformer import (
    CAFormerB36 as CAFormerB36,
    CAFormerM36 as CAFormerM36,
    CAFormerS18 as CAFormerS18,
    CAFormerS36 as CAFormerS36,
)
from keras_metaformer.applications.convformer import (
    ConvFormerB36 as ConvFormerB36,
    ConvFormerM36 as ConvFormerM36,
    ConvFormerS18 as ConvFormerS18,
    ConvFormerS36 as ConvFormerS36,
)
from keras_metaformer.applications.ffnet import (
    FFNet1 as FFNet1,
    FFNet2 as FFNet2,
    FFNet3 as FFNet3,
    FFNet4 as FFNet4,
)
from keras_metaformer.applications.gmlp import (
    GMLPB16 as GMLPB16,
    GMLPS16 as GMLPS16,
    GMLPTi16 as GMLPTi16,
)
from keras_metaformer.applications.identityformer import (
    IdentityFormerM36 as IdentityFormerM36,
    IdentityFormerM48 as IdentityFormerM48,
    IdentityFormerS12 as IdentityFormerS12,
    IdentityFormerS24 as IdentityFormerS24,
    IdentityFormerS36 as IdentityFormerS36,
)
from keras_metaformer.applications.mlp_mixer import (
    MLPMixerB16 as MLPMixerB16,
    MLPMixerB32 as MLPMixerB32,
    MLPMixerH14 as MLPMixerH14,
    MLPMixerL16 as MLPMixerL16,
    MLPMixerL32 as MLPMixerL32,
    MLPMixerS16 as MLPMixerS16,
    MLPMixerS32 as MLPMixerS32,
    MLPMixerS8 as MLPMixerS8,
)
from keras_metaformer.applications.poolformer import (
    PoolFormerM36 as PoolFormerM36,
    PoolFormerM48 as PoolFormerM48,
    PoolFormerS12 as PoolFormerS12,
    PoolFormerS24 as PoolFormerS24,
    PoolFormerS36 as PoolFormerS36,
)
from keras_metaformer.applications.poolformer_hybrids import (
    MetaFormerIdS12 as MetaFormerIdS12,
    MetaFormerPPAAS12 as MetaFormerPPAAS12,
    MetaFormerPPFFS12 as MetaFormerPPFFS12,
    MetaFormerPPPAS12 as MetaFormerPPPAS12,
    MetaFormerPPPFS12 as MetaFormerPPPFS12,
)
from keras_metaformer.applications.poolformerv2 import (
    PoolFormerV2M36 as PoolFormerV2M36,
    PoolFormerV2M48 as PoolFormerV2M48,
    PoolFormerV2S12 as PoolFormerV2S12,
    PoolFormerV2S24 as PoolFormerV2S24,
    PoolFormerV2S36 as PoolFormerV2S36,
)
from keras_metaformer.applications.randformer import (
    RandFormerM36 as RandFormerM36,
    RandFormerM48 as RandFormerM48,
    RandFormerS12 as RandFormerS12,
    RandFormerS24 as RandFormerS24,
    RandFormerS36 as RandFormerS36,
)
from keras_metaformer.applications.resmlp import (
    ResMLP12 as ResMLP12,
    ResMLP24 as ResMLP24,
    ResMLP36 as ResMLP36,
    ResMLPB24 as ResMLPB24,
)
from keras_metaformer.features.embedding import embeddings as embeddings
from keras_metaformer.features.extractor import feature_extractor as feature_extractor
from keras_metaformer.inference.folding import fold as fold
from keras_metaformer.layers import MetaMixer as MetaMixer
from keras_metaformer.models.ffnet import FFNet as FFNet
from keras_metaformer.models.metaformer import (
    IsotropicMetaFormer as IsotropicMetaFormer,
    MetaFormer as MetaFormer,
)
from keras_metaformer.training.prediction import (
    evaluate as evaluate,
    predict as predict,
)
from keras_metaformer.training.run import train as train
from keras_metaformer.sharing.sources import load as load, save as save
from keras_metaformer.weights.files.readers import read_checkpoint as read_checkpoint
from keras_metaformer.weights.porting import (
    port_weights as port_weights,
    to_state_dict as to_state_dict,
)
from keras_metaformer.weights.transforms import transforms_for as transforms_for
from keras_metaformer_lite.listing import list_models as list_models
from keras_metaformer_lite.weights.catalogue import list_weights as list_weights
