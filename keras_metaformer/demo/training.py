"""How a small model learns to read handwritten digits."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_metaformer.data.digits import Digits
from keras_metaformer.demo.models import CLASSES

# Of `fit` and `predict`, which Keras annotates with the type of their default "auto".
SILENT: Any = 0

BATCH_SIZE = 64
PEAK_LEARNING_RATE = 2e-3
WARMUP_EPOCHS = 1
# The originals have 8x8 pixels: a shift of 4 is one of theirs.
MAXIMUM_SHIFT = 3.0
MAXIMUM_ROTATION_DEGREES = 12.0


def train(
    model: keras.Model,
    digits: Digits,
    epochs: int,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, list[float]]:
    """Trains with AdamW, warmup and cosine decay, on shifted and rotated digits.

    The held-out digits are evaluated after each epoch for the learning curves; no
    choice is made from them.

    Args:
        model: a model such as `models.build_model` returns.
        digits: the images.
        epochs: passes over the training images.
        seed: seed of the order and the augmentation.
        callbacks: passed on to `model.fit`.

    Returns:
        Lists with one value per epoch: `loss`, `accuracy`, `val_loss`,
        `val_accuracy`.
    """
    batches = AugmentedDigits(digits.train_images, digits.train_labels, seed)
    warmup_steps = WARMUP_EPOCHS * len(batches)
    learning_rate: Any = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=PEAK_LEARNING_RATE / 100,
        warmup_target=PEAK_LEARNING_RATE,
        warmup_steps=warmup_steps,
        decay_steps=max(1, epochs * len(batches) - warmup_steps),
        alpha=0.01,
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate, weight_decay=0.05),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=["accuracy"],
    )
    history = model.fit(
        batches,
        epochs=epochs,
        validation_data=(
            digits.test_images.astype("float32"),
            one_hot(digits.test_labels),
        ),
        validation_batch_size=len(digits.test_labels),
        callbacks=list(callbacks),
        verbose=SILENT,
    )
    return history.history


class AugmentedDigits(keras.utils.PyDataset):
    """Shuffled batches of the digits, each shifted and rotated a little anew.

    Batches are `(BATCH_SIZE, height, width, 3)` float32 0..255 and one-hot labels; the
    images that do not fill a batch wait for the next order.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
        super().__init__()
        self._images = images
        self._labels = one_hot(labels)
        self._random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self) -> int:
        return len(self._images) // BATCH_SIZE

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        images = np.stack([augment(self._images[i], self._random) for i in chosen])
        return images, self._labels[chosen]

    def on_epoch_end(self) -> None:
        self._order = self._random.permutation(len(self._images))


def augment(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A uint8 image, shifted and rotated at random, as float32."""
    from PIL import Image

    angle = random.uniform(-MAXIMUM_ROTATION_DEGREES, MAXIMUM_ROTATION_DEGREES)
    horizontal, vertical = random.uniform(-MAXIMUM_SHIFT, MAXIMUM_SHIFT, size=2)
    moved = Image.fromarray(image).rotate(
        angle, Image.Resampling.BILINEAR, translate=(horizontal, vertical)
    )
    return np.asarray(moved, dtype="float32")


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Integer labels `(number,)` as float32 `(number, CLASSES)`."""
    return np.eye(CLASSES, dtype="float32")[labels]
