"""A small model learns from a larger one: distillation on real digits.

The teacher mixes tokens by convolutions and attention, the student by pooling; each is
trained for so many epochs, the student once alone and once with the teacher.

Run: python examples/distil.py [--epochs 10] [--soft]
"""

import argparse

import keras
import numpy as np

import keras_metaformer as km
from keras_metaformer.data.digits import Digits, load_digits

CLASSES = 10


def build(name: str, mixer: tuple[str, str], widths: tuple[int, int]) -> keras.Model:
    return km.MetaFormer(
        depths=(1, 1),
        widths=widths,
        mixer=mixer,
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(32, 32, 3),
        classes=CLASSES,
        name=name,
    )


def teacher() -> keras.Model:
    return build("teacher", ("separable_convolution", "self_attention"), (32, 64))


def student() -> keras.Model:
    return build("student", ("pooling", "pooling"), (16, 32))


def fit(model: keras.Model, digits: Digits, epochs: int, samples: int | None) -> None:
    batch_size = 32
    number = len(digits.train_images[:samples]) // batch_size * batch_size
    images = digits.train_images[:number] / 255.0
    targets = np.eye(CLASSES, dtype="float32")[digits.train_labels[:number]]
    rates = km.training.epoch_schedule(4e-3, epochs, warmup_epochs=1)
    schedule = km.training.EpochSchedule(rates, number // batch_size)
    model.compile(
        km.training.AdamW(schedule, weight_decay=0.05), "categorical_crossentropy"
    )
    model.fit(images, targets, batch_size, epochs, verbose=0)


def accuracy(model: keras.Model, digits: Digits) -> float:
    predicted = model.predict(digits.test_images / 255.0, verbose=0).argmax(-1)
    return float((predicted == digits.test_labels).mean())


def run(
    epochs: int = 10, hard: bool = True, samples: int | None = None
) -> dict[str, float]:
    """Accuracy on the digits held out, of the teacher and of both students."""
    digits = load_digits()
    keras.utils.set_random_seed(0)
    master = teacher()
    fit(master, digits, epochs, samples)
    alone = student()
    fit(alone, digits, epochs, samples)
    taught = student()
    distiller = km.training.Distiller(
        taught, master, hard=hard, alpha=0.5, temperature=2.0
    )
    fit(distiller, digits, epochs, samples)
    # The student is a model like any other, and its file knows no teacher:
    # taught.save("student.keras")
    models = {"teacher": master, "student alone": alone, "student, taught": taught}
    return {name: accuracy(model, digits) for name, model in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--soft", action="store_true")
    arguments = parser.parse_args()
    for name, right in run(arguments.epochs, not arguments.soft).items():
        print(f"{name}: {right:.1%} of the held-out digits are right")


if __name__ == "__main__":
    main()
