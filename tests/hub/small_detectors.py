"""KerasHub's and KerasCV's detectors and segmenters, small, on our models."""

from typing import Any

import keras
import numpy as np

from keras_metaformer.hub import MetaFormerBackbone
from tests.small_models import build_small

SIZE = 64
IMAGES = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype("float32")
BOXES = np.array([[[8, 8, 40, 40]], [[16, 4, 60, 50]]], "float32")
CLASSES = np.array([[0], [1]], "float32")


def encoder(family: str) -> keras.Model:
    return MetaFormerBackbone(build_small(family, include_top=False))


def detector(family: str) -> Any:
    """KerasHub's RetinaNet, with one layer in its heads."""
    import keras_hub

    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=encoder(family), min_level=3, max_level=5, use_p5=False
    )
    return keras_hub.models.RetinaNetObjectDetector(
        backbone,
        num_classes=2,
        bounding_box_format="xyxy",
        pre_logits_num_conv_layers=1,
    )


def segmenter(family: str) -> Any:
    """KerasHub's DeepLabV3+."""
    import keras_hub

    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder(family),
        low_level_feature_key="P2",
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[1, 2],
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=2)
