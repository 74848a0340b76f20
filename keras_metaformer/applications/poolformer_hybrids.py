"""The hybrids of the PoolFormer release: another token mixer in the last stages.

Their names say the mixer of each stage: `P` pooling, `A` self-attention, `F` a linear
layer over the tokens ("spatial fc"); `Id` mixes nothing in any stage.

Paper: MetaFormer Is Actually What You Need for Vision, https://arxiv.org/abs/2111.11418
Official code: https://github.com/sail-sg/poolformer (Apache-2.0)
"""

import functools
from typing import Any

from keras_metaformer.applications import imagenet
from keras_metaformer.applications.poolformer import FAMILY as POOLFORMER
from keras_metaformer.layers import CrossPatchLinear, SelfAttentionMixer
from keras_metaformer.models.families import Family, define_variant
from keras_metaformer.models.metaformer import METAFORMER

_ATTENTION = functools.partial(SelfAttentionMixer, use_bias=(False, True))
_SPATIAL_FC = functools.partial(CrossPatchLinear, use_bias=False)
# With attention the release normalises each position over its channels.
_LAYER_NORM = {"norm": "layer_norm", "output_norm": "layer_norm"}


def _attention(first: int) -> dict[str, Any]:
    """Attention from a stage on, with learned positions before it."""
    return {
        "mixer": ("pooling",) * first + (_ATTENTION,) * (4 - first),
        "position_embedding": tuple(stage == first for stage in range(4)),
        **_LAYER_NORM,
    }


FAMILY = Family(
    module="poolformer_hybrids",
    title="MetaFormer",
    summary="PoolFormer with another token mixer in the stages that its name says.",
    reference=POOLFORMER.reference,
    builder=METAFORMER,
    sizes={
        f"{mixers}S12": {**POOLFORMER.sizes["S12"], **fields}
        for mixers, fields in {
            "Id": {"mixer": "identity"},
            "PPPA": _attention(3),
            "PPAA": _attention(2),
            "PPPF": {"mixer": ("pooling", "pooling", "pooling", _SPATIAL_FC)},
            "PPFF": {"mixer": ("pooling", "pooling", _SPATIAL_FC, _SPATIAL_FC)},
        }.items()
    },
    defaults=POOLFORMER.defaults,
)

MetaFormerIdS12 = define_variant(FAMILY, "IdS12", 11_915_176, 1_812_267_008)
MetaFormerPPPAS12 = define_variant(FAMILY, "PPPAS12", 14_038_440, 1_919_944_704)
MetaFormerPPAAS12 = define_variant(FAMILY, "PPAAS12", 16_535_592, 2_549_151_744)
MetaFormerPPPFS12 = define_variant(FAMILY, "PPPFS12", 11_919_978, 1_814_725_632)
MetaFormerPPFFS12 = define_variant(FAMILY, "PPFFS12", 12_150_474, 1_888_484_352)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
