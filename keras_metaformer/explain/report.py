"""One page of what a model sees in images, and what it goes by."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.explain import pages
from keras_metaformer.explain.attention import (
    attention_maps,
    attention_watch,
    has_attention,
)
from keras_metaformer.explain.attributions import Attributions, smooth_grad
from keras_metaformer.explain.cam import CAM, METHODS, default_layer
from keras_metaformer.explain.heat_maps import HeatMaps, laid_over
from keras_metaformer.explain.images import pixels, prepared
from keras_metaformer.explain.memory import memory, memory_watch
from keras_metaformer.explain.parts import block_of, mixing_of
from keras_metaformer.explain.probe import OUTPUT, Probe
from keras_metaformer.explain.results import Result
from keras_metaformer.explain.scales import learned_scales
from keras_metaformer.explain.sparsity import (
    block_activations,
    sparsity,
    sparsity_watch,
)
from keras_metaformer.explain.targets import probabilities_of, resolve
from keras_metaformer.explain.token_matrices import has_token_matrices, token_matrices
from keras_metaformer.layers.validation import positive_integer

_TOP = 5
#: Of Score-CAM, which runs the model once for each.
_CHANNELS = 24
_SAMPLES = 6
METHOD_NAMES = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "layer_cam": "Layer-CAM",
    "score_cam": "Score-CAM",
    "eigen_cam": "Eigen-CAM (of no class)",
    "smooth_grad": "SmoothGrad",
}
_OF_THE_METHODS = (
    "Each picture shows the same question, where is what speaks for the first answer, "
    "answered in another way. Where they agree, trust them more; where one stands "
    "alone, `km.explain.faithfulness` tells which of them the model's score follows."
)


@dataclasses.dataclass(frozen=True)
class Report:
    """What is on a page that `report` wrote.

    Attributes:
        path: the file.
        answers: for each image the five best classes, `(name, probability)`.
        maps: by the name of the method what it found for the images.
        sections: by their headings the results that stand below.
    """

    path: Path
    answers: list[list[tuple[str, float]]]
    maps: dict[str, HeatMaps | Attributions]
    sections: dict[str, Result]


def report(
    model: keras.Model | Probe,
    images: Any,
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    transform: Any = None,
    batch_size: int = 8,
) -> Report:
    """Write a page of HTML that shows what a classifier sees in images.

    For each image: the image as the model gets it, the five best classes, and where
    the first of them is by five class activation maps and SmoothGrad. Then what the
    model is like inside on these images. With each a sentence of how it is read. The
    file is whole: it needs no other and no network.

    Args:
        model: a classifier of images, as `Probe` takes it, or its `Probe`.
        images: as `CAM` takes them; some, not hundreds: each adds half a megabyte.
        path: the `.html` file.
        names: of the images; None for their paths, or numbers.
        title: of the page; None for one with the model's name.
        transform: callable that prepares an image, where the model does not know.
        batch_size: int. Images at once.

    Raises:
        ValueError: if the model is no classifier, the images do not fit it, or there is
            no such folder.
        ImportError: if matplotlib is not installed.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(
            f"Expected a path in a folder that exists. Received: path={str(path)!r}"
        )
    positive_integer("batch_size", batch_size)
    probe = Probe.of(model)
    batch = prepared(probe, images, transform)
    names = _names_of(images, len(batch)) if names is None else list(names)
    if len(names) != len(batch):
        raise ValueError(
            f"Expected one name for each of {len(batch)} images. "
            f"Received: {len(names)} names"
        )
    with probe.watching_together(*_watched(probe)):
        answers, classes = best_classes(probe, batch, _TOP, batch_size)
        maps: dict[str, HeatMaps | Attributions] = {}
        for method in METHODS:
            cam = CAM(probe, method, channels=_CHANNELS, batch_size=batch_size)
            maps[method] = cam(batch, list(classes))
        maps["smooth_grad"] = smooth_grad(
            probe, batch, list(classes), samples=_SAMPLES, batch_size=batch_size
        )
        sections = dict(_sections(probe, batch, batch_size))
    parts = [
        pages.paragraph(
            f"{probe.model.name}, {len(batch)} "
            f"{'image' if len(batch) == 1 else 'images'} of {batch.shape[1]} x "
            f"{batch.shape[2]} pixels. Class activation maps are of the layer "
            f"{default_layer(probe)}.",
            "facts",
        )
    ]
    shown = pixels(batch, probe.description)
    for index, name in enumerate(names):
        parts += _of_one(name, shown[index], answers[index], maps, index)
    for heading, found in sections.items():
        parts += [
            pages.heading(heading),
            pages.picture(found.png(), heading),
            pages.paragraph(found.reading, "reading"),
        ]
    title = title or f"What {probe.model.name} sees"
    pages.write(path, pages.page(title, parts))
    return Report(path, answers, maps, sections)


def best_classes(
    probe: Probe, batch: np.ndarray, number: int, batch_size: int
) -> tuple[list[list[tuple[str, float]]], np.ndarray]:
    """The best classes of each image with their probabilities, and the first ones.

    Raises:
        ValueError: if the model is no classifier.
    """
    # It knows what a classifier is, and what its classes are called.
    resolved = resolve(probe, batch, None, batch_size)
    outputs = probe.observe(batch, {}, batch_size=batch_size)[OUTPUT]
    if outputs.ndim != 2 or resolved.classes is None:
        raise ValueError(
            "Expected a classifier that gives (batch, classes). "
            f"Received: {probe.model.name!r}, which gives {outputs.shape}"
        )
    found = probabilities_of(probe, outputs)
    description = probe.description
    names = None if description is None else description.names()
    answers = []
    for row in found:
        best = np.argsort(-row, kind="stable")[:number]
        answers.append(
            [
                (f"class {i}" if names is None else readable(names[i]), float(row[i]))
                for i in best
            ]
        )
    return answers, resolved.classes


def readable(name: str) -> str:
    """A class' name without underscores."""
    return name.replace("_", " ")


def _names_of(images: Any, number: int) -> list[str]:
    if isinstance(images, (str, os.PathLike)):
        return [Path(images).name]
    found = []
    for index in range(number):
        is_path = isinstance(images, (list, tuple)) and isinstance(
            images[index], (str, os.PathLike)
        )
        found.append(Path(images[index]).name if is_path else f"Image {index + 1}")
    return found


def _of_one(
    name: str,
    shown: np.ndarray,
    answers: list[tuple[str, float]],
    maps: dict[str, HeatMaps | Attributions],
    index: int,
) -> Iterator[str]:
    yield pages.heading(name)
    yield pages.side_by_side(
        [pages.photograph(shown, "as the model gets it"), pages.bars(answers)], "first"
    )
    yield pages.heading(f"Where is the {answers[0][0]}?", 3)
    yield pages.side_by_side(
        pages.photograph(laid_over(shown, found.maps[index]), METHOD_NAMES[method])
        for method, found in maps.items()
    )
    if index == 0:
        yield pages.paragraph(HeatMaps.reading, "reading")
        yield pages.paragraph(f"SmoothGrad: {Attributions.reading}", "reading")
        yield pages.paragraph(_OF_THE_METHODS, "reading")


def _block_with_keys(probe: Probe) -> str | None:
    """The last block whose channel mixer has an activation."""
    channel = [
        path for path in block_activations(probe) if mixing_of(path) == "channel"
    ]
    return block_of(channel[-1]) if channel else None


def _watched(probe: Probe) -> Iterator[dict[Any, Any]]:
    """What the maps and the sections will observe."""
    yield {default_layer(probe): None}
    if has_attention(probe):
        yield attention_watch(probe, average_heads=True)
    block = _block_with_keys(probe)
    if block is not None:
        yield memory_watch(probe, block)
    yield sparsity_watch(probe)


def _sections(
    probe: Probe, batch: np.ndarray, batch_size: int
) -> Iterator[tuple[str, Result]]:
    """What the model is like inside, as far as it has such parts."""
    if has_attention(probe):
        maps = attention_maps(probe, batch, average_heads=True, batch_size=batch_size)
        yield "What the blocks attend to", maps
        yield "Attention through each stage", maps.rollout()
    if has_token_matrices(probe):
        yield "How tokens are mixed, whatever the image", token_matrices(probe)
    block = _block_with_keys(probe)
    if block is not None:
        yield (
            "Keys of the last block's memory",
            memory(probe, batch, block, keys=4, batch_size=batch_size),
        )
    if block_activations(probe):
        yield (
            "Active coefficients through the depth",
            sparsity(probe, batch, batch_size=batch_size),
        )
    with contextlib.suppress(ValueError):  # The model has none.
        yield "Learned scales through the depth", learned_scales(probe)
