"""Digits as a folder of PNGs, and a small model, as a user has them."""

from pathlib import Path

import keras
import numpy as np
from PIL import Image

import keras_metaformer as km
from keras_metaformer.data.digits import load_digits
from keras_metaformer.models.pyramid_model import described
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.images import EvaluationTransform

SIZE = 16
#: A recipe for so little data: `--set` of each.
SETTINGS = {
    "learning_rate": 3e-3,
    "layer_decay": "none",
    "warmup_epochs": 0,
    "horizontal_flip": 0,
    "random_erasing": 0,
    "rand_augment": "none",
    "random_resized_crop_scale": "0.7,1",
    "average_decay": 0.7,
}


def write_digits(
    folder: Path, classes: int = 10, each: int | None = None
) -> tuple[Path, Path]:
    """Class folders of digits for training and to validate with.

    Args:
        folder: gets `train` and `val`.
        classes: int. How many of the digits.
        each: images of a class for training, and half as many to validate with; None
            for all.
    """
    digits = load_digits()
    for part, images, labels, most in (
        ("train", digits.train_images, digits.train_labels, each),
        ("val", digits.test_images, digits.test_labels, each and each // 2),
    ):
        for label in range(classes):
            found = np.flatnonzero(labels == label)[:most]
            target = folder / part / f"digit_{label}"
            target.mkdir(parents=True)
            for place in found:
                Image.fromarray(images[place]).save(target / f"{place:04}.png")
    return folder / "train", folder / "val"


def small_model(path: Path, classes: int = 3) -> Path:
    """An untrained model of 16 x 16 pixels that says how it wants its images."""
    keras.utils.set_random_seed(1)
    model = km.MetaFormer(
        depths=(1, 1),
        widths=(8, 32),
        mixer=("pooling", "self_attention"),
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(SIZE, SIZE, 3),
        classes=classes,
        include_preprocessing=True,
        stochastic_depth_rate=0.1,
        head_dropout=0.1,
        seed=5,
    )
    description = ImageDescription(EvaluationTransform(SIZE), True)
    described(model, description).save(path)
    return path
