"""A token mixer of your own in a MetaFormer, trained for a moment on real digits.

Run: python examples/custom_mixer.py [--epochs 3]
"""

import argparse

import keras
from keras import ops

import keras_metaformer as km
from keras_metaformer.data.digits import load_digits


# The mixer: every position takes the row above. A layer that
# keeps the shape (batch, height, width, channels) is all that is asked for; registered,
# it can be saved and loaded with the model.
@keras.saving.register_keras_serializable(package="example")
class ShiftMixer(keras.layers.Layer):
    def call(self, inputs):
        return ops.roll(inputs, 1, axis=1)


def build(image_size: int = 32) -> keras.Model:
    return km.MetaFormer(
        depths=(1, 1),
        widths=(32, 64),
        # Per stage: your own class, then a mixer by its name.
        mixer=(ShiftMixer, "self_attention"),
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(image_size, image_size, 3),
        classes=10,
        name="shiftformer",
    )


def train(epochs: int = 3, samples: int | None = None) -> tuple[keras.Model, float]:
    """The trained model and its accuracy on the digits held out."""
    digits = load_digits()
    model = build()
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        digits.train_images[:samples] / 255.0,
        digits.train_labels[:samples],
        batch_size=32,
        epochs=epochs,
    )
    _, accuracy = model.evaluate(digits.test_images / 255.0, digits.test_labels)
    return model, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    model, accuracy = train(parser.parse_args().epochs)
    print(f"{model.name}: {accuracy:.1%} of the held-out digits are right")


if __name__ == "__main__":
    main()
