"""FFNet: self-attention's frame with the sub-operations of a feed-forward network.

Paper: MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
Official code: https://github.com/ysj9909/FFNet (Apache-2.0)
"""

from keras_metaformer.applications import imagenet
from keras_metaformer.models.families import Family, define_variant
from keras_metaformer.models.ffnet import FFNET

FAMILY = Family(
    module="ffnet",
    title="FFNet",
    summary="pure convolutions in the frame of query, key and value.",
    reference="MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021",
    builder=FFNET,
    sizes={
        "1": {
            "depths": (2, 2, 8, 2),
            "widths": (80, 160, 320, 640),
            "channel_kernel_size": 3,
        },
        "2": {"depths": (3, 3, 15, 3), "widths": (88, 176, 352, 704)},
        "3": {
            "depths": (4, 4, 22, 5),
            "widths": (96, 192, 384, 768),
            "layer_scale_initial_value": 1e-6,
        },
        "4": {
            "depths": (4, 4, 27, 3),
            "widths": (128, 256, 512, 1024),
            "layer_scale_initial_value": 1e-6,
        },
    },
)

FFNet1 = define_variant(FAMILY, "1", 13_775_656, 3_000_681_472, 256)
FFNet2 = define_variant(FAMILY, "2", 27_208_408, 6_060_932_608, 256)
FFNet3 = define_variant(FAMILY, "3", 48_817_896, 10_235_590_656, 256)
FFNet4 = define_variant(FAMILY, "4", 79_868_968, 19_299_278_848, 256)

preprocess_input = imagenet.preprocessing(FAMILY)
decode_predictions = imagenet.decode_predictions
