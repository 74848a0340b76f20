"""ConvFormer: separable convolutions as the token mixer.

Paper: MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
Official code: https://github.com/sail-sg/metaformer (Apache-2.0)
"""

from typing import Any

from keras_metaformer.applications.imagenet import decode_predictions, normalize
from keras_metaformer.applications.metaformer_baselines import (
    CONVOLUTION_SIZES,
    baseline_family,
)
from keras_metaformer.models.families import define_variant
from keras_metaformer.models.metaformer import METAFORMER

FAMILY = baseline_family(
    METAFORMER,
    module="convformer",
    title="ConvFormer",
    summary="a MetaFormer whose token mixer is a separable convolution.",
    mixer="separable_convolution",
    norm="layer_norm",
    head="mlp",
    sizes=CONVOLUTION_SIZES,
)

ConvFormerS18 = define_variant(FAMILY, "S18", 26_774_448, 3_940_984_320)
ConvFormerS36 = define_variant(FAMILY, "S36", 40_012_152, 7_639_683_072)
ConvFormerM36 = define_variant(FAMILY, "M36", 57_051_640, 12_842_333_568)
ConvFormerB36 = define_variant(FAMILY, "B36", 99_882_616, 22_629_413_376)


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Pixels 0..255 to what the published weights expect.

    Args:
        x: NumPy array or tensor `(..., height, width, 3)`, RGB.
        data_format: None or `"channels_last"`.

    Returns:
        Float array or tensor of the same shape.

    Raises:
        ValueError: for channels first, or another number of channels than three.
    """
    return normalize(x, FAMILY.mean, FAMILY.std, data_format)


__all__ = [
    "ConvFormerB36",
    "ConvFormerM36",
    "ConvFormerS18",
    "ConvFormerS36",
    "decode_predictions",
    "preprocess_input",
]
