"""A segmenter on our features: which digit each pixel of a scene is of.

The head is that of the papers' Semantic FPN in small: the maps of all levels, each
normalised and projected, are resized to the largest and summed. The scenes are composed
of scikit-learn's real digits; those held out are made of other digits.

Run: python -m examples.segmentation [--epochs 12]
Needs: pip install "keras-metaformer[tensorflow,examples]"
"""

import argparse
from typing import Any

import keras
import numpy as np

import keras_metaformer as km
from examples.digit_scenes import CLASSES, Scenes, digit_scenes


def build(size: int) -> keras.Model:
    """From pixels 0..255 to logits `(batch, size, size, 11)`: background and digits."""
    backbone = km.MetaFormer(
        depths=(1, 1, 2, 1),
        widths=(32, 48, 96, 128),
        mixer=("separable_convolution",) * 2 + ("self_attention",) * 2,
        include_top=False,
        include_preprocessing=True,
        input_shape=(size, size, 3),
        name="small_caformer",
    )
    extractor = km.feature_extractor(backbone, norm=True)
    summed = None
    maps: dict[str, Any] = extractor.output
    for level, features in maps.items():
        projected = keras.layers.Conv2D(64, 1, name=f"{level}_projection")(features)
        factor = 2 ** (int(level[1:]) - 2)
        resized = keras.layers.UpSampling2D(factor, interpolation="bilinear")(projected)
        summed = resized if summed is None else summed + resized
    mixed = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(summed)
    larger = keras.layers.UpSampling2D(2, interpolation="bilinear")(mixed)
    mixed = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(larger)
    scores = keras.layers.Conv2D(1 + CLASSES, 1)(mixed)
    # The last step, to the pixels, is of the scores.
    logits = keras.layers.UpSampling2D(2, interpolation="bilinear")(scores)
    return keras.Model(extractor.inputs[0], logits, name="segmenter")


def mean_iou(model: keras.Model, scenes: Scenes) -> float:
    """Mean over the classes of the intersection over union, by Keras' metric."""
    logits = model.predict(scenes.images.astype("float32"), verbose=0)
    metric = keras.metrics.MeanIoU(1 + CLASSES)
    metric.update_state(scenes.masks, np.argmax(logits, -1))
    return float(metric.result())


def run(
    epochs: int = 12, training: int = 1200, held_out: int = 200, size: int = 64
) -> tuple[float, float]:
    """The mean IoU on held-out scenes before training and after."""
    keras.utils.set_random_seed(0)
    train, test = digit_scenes(training, held_out, size)
    model = build(size)
    batch = 16
    whole = training // batch * batch  # A smaller last batch would be compiled anew.
    steps = epochs * (training // batch)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, steps, warmup_target=2e-3, warmup_steps=min(100, steps // 4)
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    before = mean_iou(model, test)
    model.fit(
        train.images[:whole].astype("float32"),
        train.masks[:whole],
        batch,
        epochs,
        verbose=2,
    )
    return before, mean_iou(model, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    before, after = run(arguments.epochs)
    print(f"mean IoU: {before:.3f} before training, {after:.3f} after")


if __name__ == "__main__":
    main()
