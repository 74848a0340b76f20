"""What IdentityFormer, RandFormer, PoolFormerV2, ConvFormer and CAFormer share.

Paper: MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
Official code: https://github.com/sail-sg/metaformer (Apache-2.0)
"""

from typing import Any

from keras_metaformer.models.builder import Builder, P
from keras_metaformer.models.families import Family

#: Depths and widths of the pooling-like families.
POOLING_SIZES: dict[str, dict[str, Any]] = {
    "S12": {"depths": (2, 2, 6, 2), "widths": (64, 128, 320, 512)},
    "S24": {"depths": (4, 4, 12, 4), "widths": (64, 128, 320, 512)},
    "S36": {"depths": (6, 6, 18, 6), "widths": (64, 128, 320, 512)},
    "M36": {"depths": (6, 6, 18, 6), "widths": (96, 192, 384, 768)},
    "M48": {"depths": (8, 8, 24, 8), "widths": (96, 192, 384, 768)},
}
#: Depths and widths of ConvFormer and CAFormer.
CONVOLUTION_SIZES: dict[str, dict[str, Any]] = {
    "S18": {"depths": (3, 3, 9, 3), "widths": (64, 128, 320, 512)},
    "S36": {"depths": (3, 12, 18, 3), "widths": (64, 128, 320, 512)},
    "M36": {"depths": (3, 12, 18, 3), "widths": (96, 192, 384, 576)},
    "B36": {"depths": (3, 12, 18, 3), "widths": (128, 256, 512, 768)},
}
_REFERENCE = "MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452"


def baseline_family(
    builder: Builder[P],
    module: str,
    title: str,
    summary: str,
    mixer: Any,
    norm: str,
    head: str,
    sizes: dict[str, dict[str, Any]],
) -> Family[P]:
    """A family of the paper: a mixer per stage, with the paper's StarReLU and ResScale.

    ResScale is on the residual branches of the last two stages only.
    """
    return Family(
        module=module,
        title=title,
        summary=summary,
        reference=_REFERENCE,
        builder=builder,
        sizes=sizes,
        defaults={
            "mixer": mixer,
            "norm": norm,
            "residual_scaling": ("none", "none", "residual", "residual"),
            "head": head,
        },
    )
