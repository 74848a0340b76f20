"""Draws the pictures of `docs/explain.md` and `docs/explain-networks.md`.

    .venv/bin/python -m scripts.draw_explained
    .venv/bin/python -m scripts.draw_explained --only cams

trains a few small models on scikit-learn's digits and one on the planted evidence of
`tests/explain/quadrants.py`, some minutes on two cores, and writes
`docs/images/explain_*.png`.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

import keras_metaformer as km
from keras_metaformer.data.digits import load_digits
from keras_metaformer.demo.models import CLASSES, IMAGE_SIZE, build_model
from keras_metaformer.demo.training import train
from keras_metaformer.explain.heat_maps import overlay
from keras_metaformer.explain.report import METHOD_NAMES
from keras_metaformer.layers import (
    ConvNeXtChannelMixer,
    FFNifiedAttention,
    SeparableConvolutionMixer,
)
from tests.explain import quadrants

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
#: Of all depthwise convolutions, in pixels.
KERNEL = 3


def _separable() -> keras.layers.Layer:
    return SeparableConvolutionMixer(KERNEL)


def _convnext() -> keras.layers.Layer:
    return ConvNeXtChannelMixer(KERNEL)


def _ffnified() -> keras.layers.Layer:
    return FFNifiedAttention(KERNEL)


#: Blocks of the four architectures behind the same stem and downsampling.
BLOCKS: dict[str, dict[str, Any]] = {
    "ConvNeXt": {"mixer": "identity", "channel_mixer": _convnext},
    "ConvFormer": {"mixer": _separable},
    "CAFormer": {"mixer": (_separable, _separable, "self_attention")},
    "FFNet": {"mixer": _ffnified, "channel_mixer": _convnext},
}


def _build(blocks: dict[str, Any]) -> keras.Model:
    return km.MetaFormer(
        depths=(1, 1, 2),
        widths=(32, 64, 128),
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        classes=CLASSES,
        include_preprocessing=True,
        **blocks,
    )


@dataclasses.dataclass(frozen=True)
class _SideBySide(km.explain.Result):
    """Images in rows, beside them the maps of several methods."""

    images: np.ndarray
    labels: tuple[str, ...]
    maps: dict[str, np.ndarray]

    @property
    def size(self) -> tuple[float, float]:
        return 1.45 * (1 + len(self.maps)), 1.6 * len(self.images)

    def arrays(self) -> dict[str, np.ndarray]:
        return self.maps

    def draw(self, figure: Any) -> None:
        rows = figure.subplots(len(self.images), 1 + len(self.maps), squeeze=False)
        for index, (first, *others) in enumerate(rows):
            first.imshow(self.images[index])
            first.set_axis_off()
            first.set_title(self.labels[index], fontsize=8)
            for axes, (name, maps) in zip(others, self.maps.items(), strict=True):
                overlay(axes, self.images[index], maps[index])
                if index == 0:
                    axes.set_title(name, fontsize=8)


def _cams() -> _SideBySide:
    """Six methods at the default layer of a small CAFormer, as the tests train it."""
    probe = km.explain.Probe(quadrants.trained("caformer", epochs=8))
    drawn = (quadrants.colourful(2, 60), quadrants.pictures(1, 61))
    images, classes, _ = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    found = {}
    for method, name in METHOD_NAMES.items():
        if method == "smooth_grad":
            maps = km.explain.smooth_grad(probe, images, list(classes), samples=8)
        else:
            maps = km.explain.grad_cam(probe, images, list(classes), method=method)
        found[name.removesuffix(" (of no class)")] = maps.maps
    return _SideBySide(
        np.rint(255 * np.clip(0.5 + images / 4, 0, 1)).astype("uint8"),
        tuple(f"where is {quadrants.NAMES[label]}?" for label in classes),
        found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3, help="on the digits")
    parser.add_argument("--only", choices=["cams"], help="this picture alone")
    arguments = parser.parse_args()
    cams = FOLDER / "explain_cams.png"
    _cams().save(cams)
    # Noise is large in a PNG of all colours.
    Image.open(cams).convert("RGB").quantize(256, kmeans=3).save(cams, optimize=True)
    if arguments.only:
        return
    epochs = arguments.epochs
    digits = load_digits(IMAGE_SIZE)
    images = digits.test_images.astype("float32")
    labels = digits.test_labels

    def trained(build: Callable[[], keras.Model]) -> km.explain.Probe:
        keras.utils.set_random_seed(0)
        model = build()
        history = train(model, digits, epochs)
        print(f"{model.name}: {history['val_accuracy'][-1]:.1%}", flush=True)
        return km.explain.Probe(model)

    def save(result: km.explain.Result, name: str) -> None:
        result.save(FOLDER / f"explain_{name}.png")

    models = {
        name: trained(lambda blocks=blocks: _build(blocks))
        for name, blocks in BLOCKS.items()
    }
    save(km.explain.receptive_field_comparison(models, images[:128]), "fields")
    caformer = models["CAFormer"]
    save(km.explain.sparsity(models["ConvFormer"], images[:128]), "sparsity")
    some = [int(np.flatnonzero(labels == digit)[0]) for digit in (3, 6, 7)]
    titles = [f"a {labels[place]}" for place in some]
    save(km.explain.memory(caformer, images[some], titles=titles), "memory")
    memory = km.explain.memory(caformer, images, batch_size=60)
    save(memory.shared_by(labels, [str(digit) for digit in range(10)], 20), "shared")
    save(km.explain.attention_maps(caformer, images[some]), "attention")
    mixer = trained(lambda: build_model(family="mlpmixer"))
    matrices = km.explain.token_matrices(mixer)
    first = next(iter(matrices.matrices))
    save(matrices.patterns(first, most=16), "patterns")
    save(km.explain.learned_scales(models["ConvFormer"]), "scales")
    save(km.explain.activation_moments(), "moments")
    cost = km.explain.activation_cost(km.ConvFormerS18(weights=None))
    save(cost, "cost")


if __name__ == "__main__":
    main()
