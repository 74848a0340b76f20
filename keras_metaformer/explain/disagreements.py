"""Where two models disagree, and what each of them goes by there."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_metaformer.explain import pages
from keras_metaformer.explain.cam import CAM
from keras_metaformer.explain.heat_maps import HeatMaps, laid_over
from keras_metaformer.explain.images import pixels
from keras_metaformer.explain.probe import OUTPUT, Probe
from keras_metaformer.explain.report import METHOD_NAMES, readable
from keras_metaformer.explain.results import Result, short
from keras_metaformer.explain.targets import probabilities_of
from keras_metaformer.features.embedding import preparing
from keras_metaformer.layers.validation import positive_integer
from keras_metaformer_lite.images import ImageError, load_image


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One image of which two models say different things.

    Attributes:
        name: of the image.
        answers: the class that either model answers.
        probabilities: `((of the first's answer by the first, by the second), (of the
            second's answer by the first, by the second))`.
        pictures: uint8 `(height, width, 3)`, the image as either model gets it.
        maps: float32 `(height, width)` from 0 to 1, where either model sees its own
            answer.
    """

    name: str
    answers: tuple[str, str]
    probabilities: tuple[tuple[float, float], tuple[float, float]]
    pictures: tuple[np.ndarray, np.ndarray]
    maps: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Disagreements(Result):
    """What `disagreements` found.

    Attributes:
        models: names of the two.
        images: how many could be read.
        disagreed: on how many of them the models answer different classes.
        found: those on which both are most certain, with maps.
        unreadable: `(name, reason)` of each image that could not be read.
        method: of the maps.
    """

    reading: ClassVar[str] = (
        "The images on which the models disagree, those first on which the less "
        "certain of the two is most certain. The maps show where either sees its own "
        "answer. Which of them is right, the page does not know."
    )

    models: tuple[str, str]
    images: int
    disagreed: int
    found: tuple[Disagreement, ...]
    unreadable: tuple[tuple[str, str], ...]
    method: str

    @property
    def size(self) -> tuple[float, float]:
        return 6.0, max(2.4 * len(self.found), 1.0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Float32 `(images, 2, 2)`, as `Disagreement.probabilities`."""
        found = [each.probabilities for each in self.found]
        return {"probabilities": np.asarray(found, "float32").reshape(-1, 2, 2)}

    def draw(self, figure: Any) -> None:
        if not self.found:
            figure.text(0.5, 0.5, "The models agree", ha="center", va="center")
            return
        grid: Any = figure.subplots(len(self.found), 3, squeeze=False)
        for row, each in zip(grid, self.found, strict=True):
            row[0].imshow(each.pictures[0])
            row[0].set_title(short(each.name), fontsize=8)
            for place, axes in enumerate(row[1:]):
                axes.imshow(laid_over(each.pictures[place], each.maps[place]))
                axes.set_title(
                    f"{short(self.models[place])}: {short(each.answers[place])}",
                    fontsize=8,
                )
            for axes in row:
                axes.set_axis_off()

    def page(self) -> str:
        """The page of HTML."""
        first, second = self.models
        agreed = self.images - self.disagreed
        share = f" ({agreed / self.images:.1%})" if self.images else ""
        parts = [
            pages.paragraph(
                f"{first} and {second} agree on {agreed} of {self.images} images{share}"
                f"; {len(self.found)} of the {self.disagreed} others are below."
            ),
            pages.paragraph(self.reading, "reading"),
            pages.paragraph(
                f"Maps: {METHOD_NAMES[self.method]}. {HeatMaps.reading}", "reading"
            ),
        ]
        for each in self.found:
            parts.append(pages.heading(each.name))
            figures = [pages.photograph(each.pictures[0], "as the first model gets it")]
            for place, model in enumerate(self.models):
                own, other = (
                    each.probabilities[place][place],
                    each.probabilities[place][1 - place],
                )
                figures.append(
                    pages.photograph(
                        laid_over(each.pictures[place], each.maps[place]),
                        f"{model}: {each.answers[place]}, {own:.1%} (the other model "
                        f"gives it {other:.1%})",
                    )
                )
            parts.append(pages.side_by_side(figures))
        if self.unreadable:
            parts.append(pages.heading("Images that could not be read"))
            parts += [
                pages.paragraph(f"{name}: {reason}", "facts")
                for name, reason in self.unreadable
            ]
        return pages.page(f"Where {first} and {second} disagree", parts)

    def save_page(self, path: str | os.PathLike[str]) -> None:
        """Write the page under another name, then put it in place.

        Raises:
            ValueError: if there is no such folder.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise ValueError(
                f"Expected a path in a folder that exists. Received: path={str(path)!r}"
            )
        pages.write(path, self.page())


def disagreements(
    first: keras.Model | Probe,
    second: keras.Model | Probe,
    images: Sequence[str | os.PathLike[str]],
    *,
    names: tuple[str, str] | None = None,
    method: str = "grad_cam",
    number: int = 12,
    batch_size: int = 8,
) -> Disagreements:
    """Find images of which two classifiers say different things.

    Either model gets its images as its own `image_description` says.

    Args:
        first: a classifier of images, as `Probe` takes it, or its `Probe`.
        second: another one, with the same classes: of the same names in any order or,
            where one of them does not name its classes, of the same number.
        images: paths. What cannot be read is told and left out.
        names: of the models; None for their own.
        method: of the maps, as of `CAM`.
        number: int. So many images, at most, get maps.
        batch_size: int. Images at once.

    Raises:
        ValueError: if the models' classes differ, one does not know how its images are
            prepared, or no image can be read.
    """
    positive_integer("number", number)
    positive_integer("batch_size", batch_size)
    probes = Probe.of(first), Probe.of(second)
    order, labels = _common_classes(*probes)
    cams = [CAM(probe, method, batch_size=batch_size) for probe in probes]
    transforms = [preparing(probe.description, images) for probe in probes]
    files, unreadable = [Path(image) for image in images], []
    readable_files: list[Path] = []
    found: list[list[np.ndarray]] = [[], []]
    for start in range(0, len(files), batch_size):
        pictures = []
        for file in files[start : start + batch_size]:
            try:
                pictures.append(load_image(file))
            except ImageError as error:
                unreadable.append((file.name, str(error)))
            else:
                readable_files.append(file)
        if not pictures:
            continue
        for place, probe in enumerate(probes):
            batch = np.stack([transforms[place](each) for each in pictures])
            outputs = probe.observe(batch, {}, batch_size=batch_size)[OUTPUT]
            found[place].append(probabilities_of(probe, outputs))
    if not readable_files:
        raise ValueError(
            f"Expected at least one image that can be read. Received: {len(files)} "
            f"images, {unreadable[:1]}"
        )
    scores = np.concatenate(found[0]), np.concatenate(found[1])[:, order]
    answers = scores[0].argmax(axis=1), scores[1].argmax(axis=1)
    differ = np.flatnonzero(answers[0] != answers[1])
    certainty = np.minimum(scores[0].max(axis=1), scores[1].max(axis=1))[differ]
    chosen = differ[np.argsort(-certainty, kind="stable")][:number]
    entries = []
    for index in chosen:
        maps, shown = [], []
        for place, (probe, cam) in enumerate(zip(probes, cams, strict=True)):
            batch = transforms[place](load_image(readable_files[index]))[np.newaxis]
            own = int(answers[place][index])
            target = own if place == 0 else int(order[own])
            maps.append(cam(batch, target).maps[0])
            shown.append(pixels(batch, probe.description)[0])
        either = [int(answers[place][index]) for place in (0, 1)]
        entries.append(
            Disagreement(
                name=readable_files[index].name,
                answers=(labels[either[0]], labels[either[1]]),
                probabilities=(
                    (
                        float(scores[0][index, either[0]]),
                        float(scores[1][index, either[0]]),
                    ),
                    (
                        float(scores[0][index, either[1]]),
                        float(scores[1][index, either[1]]),
                    ),
                ),
                pictures=(shown[0], shown[1]),
                maps=(maps[0], maps[1]),
            )
        )
    return Disagreements(
        models=names or (probes[0].model.name, probes[1].model.name),
        images=len(readable_files),
        disagreed=len(differ),
        found=tuple(entries),
        unreadable=tuple(unreadable),
        method=method,
    )


def _common_classes(first: Probe, second: Probe) -> tuple[np.ndarray, list[str]]:
    """The second model's index of each class of the first, and the classes' names."""
    counts = []
    for probe in (first, second):
        shape = tuple(probe.model.outputs[0].shape)
        is_features = (
            probe.description is not None and probe.description.output == "features"
        )
        if len(shape) != 2 or is_features:
            raise ValueError(
                "Expected a classifier that gives (batch, classes). "
                f"Received: {probe.model.name!r}, which gives {shape}"
            )
        counts.append(shape[1])
    names = [
        None if probe.description is None else probe.description.names()
        for probe in (first, second)
    ]
    own, other = names
    if counts[0] != counts[1] or (own and other and sorted(own) != sorted(other)):
        raise ValueError(
            "Expected two models with the same classes. Received: "
            f"{first.model.name!r} with {counts[0]} classes {list(own or ())[:3]} and "
            f"{second.model.name!r} with {counts[1]} classes {list(other or ())[:3]}"
        )
    order = np.arange(counts[0])
    # Names of ImageNet occur twice, in one order always.
    if own and other and own != other and len(set(own)) == len(own):
        order = np.asarray([other.index(name) for name in own])
    known = own or other or [f"class {index}" for index in order]
    return order, [readable(name) for name in known]
