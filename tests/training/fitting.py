"""A model and data that `model.fit` is done with at once."""

from typing import Any

import keras
import numpy as np

#: Of `fit` and `evaluate`, which Keras annotates with the type of their default.
SILENT: Any = 0
CLASSES = 3


def small_model(batch_norm: bool = False, activation: str | None = "softmax"):
    """A classifier of images `(8, 8, 3)`."""
    image = keras.Input((8, 8, 3))
    layers = [
        keras.layers.Conv2D(8, 4, strides=4, name="stem"),
        keras.layers.BatchNormalization() if batch_norm else None,
        keras.layers.Activation("gelu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(CLASSES, activation=activation, name="predictions"),
    ]
    x: Any = image
    for layer in layers:
        x = x if layer is None else layer(x)
    return keras.Model(image, x)


def batches(number: int, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images and soft targets that fill so many batches."""
    random = np.random.default_rng(7)
    images = random.normal(size=(number * size, 8, 8, 3)).astype("float32")
    targets = random.dirichlet(np.ones(CLASSES), number * size).astype("float32")
    return images, targets
