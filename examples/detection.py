"""A detector on our backbone: KerasHub's RetinaNet finds digits in scenes.

The scenes are composed of scikit-learn's real digits; those held out are made of other
digits. pycocotools measures the mean average precision, before training and after.

Run: python -m examples.detection [--epochs 12]
Needs: pip install "keras-metaformer[tensorflow,hub,examples]"
"""

import argparse
import contextlib
import io
from typing import Any

import keras
import keras_hub
import numpy as np

import keras_metaformer as km
from examples.digit_scenes import CLASSES, Scenes, digit_scenes
from keras_metaformer.hub import MetaFormerBackbone


def build(size: int) -> Any:
    """RetinaNet on a small CAFormer: convolutions, then attention."""
    backbone = km.MetaFormer(
        depths=(1, 1, 2, 1),
        widths=(32, 48, 96, 128),
        mixer=("separable_convolution",) * 2 + ("self_attention",) * 2,
        include_top=False,
        include_preprocessing=True,
        input_shape=(size, size, 3),
        name="small_caformer",
    )
    # A norm behind each level, as the papers' detectors have it.
    extractor = km.feature_extractor(backbone, levels=("P3", "P4", "P5"), norm=True)
    pyramid = keras_hub.models.RetinaNetBackbone(
        MetaFormerBackbone(extractor), min_level=3, max_level=5, use_p5=False
    )
    return keras_hub.models.RetinaNetObjectDetector(
        pyramid,
        num_classes=CLASSES,
        bounding_box_format="xyxy",
        # Digits are small: from two strides on, where photographs have four.
        anchor_generator=keras_hub.layers.AnchorGenerator(
            "xyxy",
            min_level=3,
            max_level=5,
            num_scales=3,
            aspect_ratios=[0.5, 1.0, 2.0],
            anchor_size=2.0,
        ),
        pre_logits_num_conv_layers=1,
        prediction_decoder=keras_hub.layers.NonMaxSuppression(
            "xyxy", from_logits=True, confidence_threshold=0.05, max_detections=20
        ),
    )


def mean_average_precision(model: Any, scenes: Scenes) -> float:
    """COCO's measure over IoU thresholds from 0.5 to 0.95, by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # On TensorFlow KerasHub's choice of boxes wants batches of one size.
    images = scenes.images.astype("float32")
    batch = next(size for size in range(40, 0, -1) if len(images) % size == 0)
    found = model.predict(images, batch_size=batch, verbose=0)
    truth, guesses = [], []
    for image in range(len(scenes.images)):
        for box, label in zip(scenes.boxes[image], scenes.labels[image], strict=True):
            if label >= 0:
                truth.append(_annotation(image, box, label, id=len(truth) + 1))
        for index in range(int(found["num_detections"][image])):
            box, label = found["boxes"][image, index], found["labels"][image, index]
            score = float(found["confidence"][image, index])
            guesses.append(_annotation(image, box, label, score=score))
    if not guesses:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # It prints as it goes.
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(scenes.images))],
            "categories": [{"id": label} for label in range(CLASSES)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(guesses), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def _annotation(image: int, box: np.ndarray, label: float, **more: Any) -> dict:
    left, top, right, bottom = map(float, box)
    width, height = right - left, bottom - top
    return {
        "image_id": image,
        "category_id": int(label),
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
        **more,
    }


def run(
    epochs: int = 12, training: int = 1200, held_out: int = 200, size: int = 64
) -> tuple[float, float]:
    """The mean average precision on held-out scenes before training and after."""
    keras.utils.set_random_seed(0)
    train, test = digit_scenes(training, held_out, size)
    model = build(size)
    batch = 16
    steps = epochs * (training // batch)
    rate = keras.optimizers.schedules.CosineDecay(
        1e-5, steps, warmup_target=1e-3, warmup_steps=min(100, steps // 4)
    )
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-4, clipnorm=1.0))
    before = mean_average_precision(model, test)
    whole = training // batch * batch  # A smaller last batch would be compiled anew.
    model.fit(
        train.images[:whole].astype("float32"),
        {"boxes": train.boxes[:whole], "labels": train.labels[:whole]},
        batch_size=batch,
        epochs=epochs,
        verbose=2,
    )
    return before, mean_average_precision(model, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    before, after = run(arguments.epochs)
    print(f"mean average precision: {before:.3f} before training, {after:.3f} after")


if __name__ == "__main__":
    main()
