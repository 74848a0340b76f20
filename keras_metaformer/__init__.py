"""MetaFormers in Keras 3, on TensorFlow, JAX and PyTorch.

Names are imported when they are asked for, so that `export.LiteRTModel` and the command
line's help need no Keras. With Keras in the process all are imported, because it loads
saved models only if their classes are registered.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_metaformer.keras_import import when_keras_is_imported
from keras_metaformer.names import question

if TYPE_CHECKING:
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
    from keras_metaformer.applications.resmlp import (
        ResMLP12,
        ResMLP24,
        ResMLP36,
        ResMLPB24,
    )
    from keras_metaformer.inference.folding import fold
    from keras_metaformer.layers import MetaMixer
    from keras_metaformer.models.isotropic import IsotropicMetaFormer
    from keras_metaformer.models.listing import list_models
    from keras_metaformer.models.metaformer import MetaFormer
    from keras_metaformer.weights.catalogue import list_weights
    from keras_metaformer.weights.files.readers import read_checkpoint
    from keras_metaformer.weights.porting import port_weights, to_state_dict
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

_SUBPACKAGES = "applications blocks export inference layers models weights".split()
_NAMES = {
    "applications.caformer": "CAFormerB36 CAFormerM36 CAFormerS18 CAFormerS36",
    "applications.convformer": (
        "ConvFormerB36 ConvFormerM36 ConvFormerS18 ConvFormerS36"
    ),
    "applications.ffnet": "FFNet1 FFNet2 FFNet3 FFNet4",
    "applications.gmlp": "GMLPB16 GMLPS16 GMLPTi16",
    "applications.identityformer": (
        "IdentityFormerM36 IdentityFormerM48 IdentityFormerS12 IdentityFormerS24 "
        "IdentityFormerS36"
    ),
    "applications.mlp_mixer": (
        "MLPMixerB16 MLPMixerB32 MLPMixerL16 MLPMixerL32 MLPMixerS8 MLPMixerS16 "
        "MLPMixerS32"
    ),
    "applications.poolformer": (
        "PoolFormerM36 PoolFormerM48 PoolFormerS12 PoolFormerS24 PoolFormerS36"
    ),
    "applications.poolformerv2": (
        "PoolFormerV2M36 PoolFormerV2M48 PoolFormerV2S12 PoolFormerV2S24 "
        "PoolFormerV2S36"
    ),
    "applications.randformer": (
        "RandFormerM36 RandFormerM48 RandFormerS12 RandFormerS24 RandFormerS36"
    ),
    "applications.resmlp": "ResMLP12 ResMLP24 ResMLP36 ResMLPB24",
    "inference.folding": "fold",
    "layers": "MetaMixer",
    "models.isotropic": "IsotropicMetaFormer",
    "models.listing": "list_models",
    "models.metaformer": "MetaFormer",
    "weights.catalogue": "list_weights",
    "weights.porting": "port_weights to_state_dict",
    "weights.files.readers": "read_checkpoint",
    "weights.transforms": "transforms_for",
}
_MODULE_OF = {
    name: module for module, names in _NAMES.items() for name in names.split()
}


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        hint = question(name, __all__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{hint}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])


def _import_all() -> None:
    for name in __all__:
        __getattr__(name)


when_keras_is_imported(_import_all)
