"""A model whose inner values are known by hand."""

from typing import Any

import keras
import numpy as np

import keras_metaformer as km

#: Of the four quarters of an image, row by row, in the first two colours.
FIRST = (1.0, -2.0, 3.0, 0.0)
SECOND = (-1.0, -1.0, 2.0, 2.0)
#: From the two colours to four hidden channels.
KEYS = np.float32([[1, -1, 0, 0], [0, 0, 1, -1]])


def image() -> np.ndarray:
    """One image `(1, 16, 16, 3)` with a colour for each quarter."""
    quarters = np.zeros((2, 2, 3), "float32")
    quarters[..., 0] = np.reshape(FIRST, (2, 2))
    quarters[..., 1] = np.reshape(SECOND, (2, 2))
    return quarters.repeat(8, axis=0).repeat(8, axis=1)[np.newaxis]


def model(mixer: Any = "identity", width: int = 2, **arguments: Any) -> keras.Model:
    """One block on the four quarters of an image of 16 x 16 pixels, without norms.

    The map before the block has the mean of the first colour of each quarter in its
    first channel, and so on. With the identity as the token mixer the MLP sees twice
    that, and its keys are `KEYS`.
    """
    settings: dict[str, Any] = {"activation": "star_relu", **arguments}
    made = km.IsotropicMetaFormer(
        1,
        width,
        8,
        mixer=mixer,
        norm="identity",
        output_norm="identity",
        use_bias=False,
        mlp_ratio=2.0,
        input_shape=(16, 16, 3),
        classes=2,
        **settings,
    )
    embedding = made.get_layer("patch_embedding").convolution
    kernel = np.zeros(embedding.kernel.shape, "float32")
    for channel in range(min(width, 3)):
        kernel[:, :, channel, channel] = 1 / 64
    embedding.set_weights([kernel, np.zeros(width, "float32")])
    if width == 2:
        mlp = made.get_layer("block_0").channel_mixing.transform
        mlp.expand.set_weights([KEYS])
    return made
