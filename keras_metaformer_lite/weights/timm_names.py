"""What timm calls our models."""

import re

#: timm's names: of our family, the words before and after the size.
_TIMM_NAMES = {
    "PoolFormer": "poolformer_{}",
    "PoolFormerV2": "poolformerv2_{}",
    "ConvFormer": "convformer_{}",
    "CAFormer": "caformer_{}",
    "MLPMixer": "mixer_{}_224",
    "ResMLP": "resmlp_{}_224",
    "GMLP": "gmlp_{}_224",
}


def timm_name(model: str) -> str | None:
    """The name in timm of one of our models, or None where timm has no such model."""
    match = re.fullmatch(r"(.*?)((?:Ti|[SMBL])?\d+)", model)
    if match is None or match[1] not in _TIMM_NAMES:
        return None
    size = match[2].lower()
    if match[1] == "ResMLP":
        size = size.replace("b", "big_")
    return _TIMM_NAMES[match[1]].format(size)
