"""Pictures of a run: learning curves, confusions, mistakes, augmented images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_metaformer.training.evaluation import Evaluation
from keras_metaformer_lite.weights.disk import replacement

if TYPE_CHECKING:
    from keras_metaformer_lite.data.sources import Source

_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#1f5fa8", "#e07b00", "#2e7d32", "#c62828", "#555"
_COLUMNS = 8
#: Of more classes a matrix shows those that are confused most.
_MOST_CLASSES = 40


def draw_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and error over the epochs.

    Args:
        history: rows of the log, with `loss` and `accuracy`, and the same with `val_`
            and `average_val_` before them where there are such.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = np.arange(1, len(history) + 1)
    for axes, name, error in ((left, "loss", False), (right, "accuracy", True)):
        for prefix, label, color in (
            ("", "training, augmented", _BLUE),
            ("val_", "validation", _ORANGE),
            ("average_val_", "validation, averaged weights", _GREEN),
        ):
            values = [row.get(prefix + name) for row in history]
            points = [
                (epoch, 1 - value if error else value)
                for epoch, value in zip(epochs, values, strict=True)
                if value is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), color=color, marker="o", ms=3)
                axes.lines[-1].set_label(label)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    left.set_title("Loss", fontsize=11)
    right.set_title("Wrong answers", fontsize=11)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(frameon=False, fontsize=8)
    _write(figure, path)


def draw_confusions(evaluation: Evaluation, path: Path) -> None:
    """Draw the confusion matrix; of many classes those that are confused most.

    Args:
        evaluation: what is drawn.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    names, images = evaluation.class_names, evaluation.class_images
    shown = np.flatnonzero(images)
    title = f"{evaluation.top1} of {evaluation.images} right"
    if len(shown) > _MOST_CLASSES:
        wrong = images - evaluation.class_top1
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
        title += f"; the {_MOST_CLASSES} classes with most mistakes"
    places = {int(label): place for place, label in enumerate(shown)}
    matrix = np.zeros((len(shown), len(shown)), "int64")
    for (label, answer), count in evaluation.confusions.items():
        if label in places and answer in places:
            matrix[places[label], places[answer]] = count
    share = matrix / np.maximum(images[shown][:, np.newaxis], 1)

    side = 3 + 0.28 * len(shown)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    labels = [_short(names[label]) for label in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.set_xlabel("answer")
    axes.set_ylabel("class")
    axes.set_title(title, fontsize=10)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        dark = share[row, column] > 0.5
        axes.text(
            column,
            row,
            str(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=6,
            color="white" if dark else "black",
        )
    _write(figure, path)


def draw_mistakes(evaluation: Evaluation, source: "Source", path: Path) -> None:
    """Draw the images of which a wrong answer was most certain.

    Args:
        evaluation: of the source, in its order.
        source: where the images are.
        path: the PNG to write.
    """
    names = evaluation.class_names
    pictures, titles = [], []
    for mistake in evaluation.mistakes:
        pictures.append(np.asarray(source.load(mistake.index)))
        answer, label = names[mistake.answer], names[mistake.label]
        titles.append(
            f"{_short(answer)} {mistake.probability:.0%}\nnot {_short(label)}"
        )
    wrong = evaluation.images - evaluation.top1
    heading = f"The {len(titles)} most certain of {wrong} mistakes" if titles else ""
    _draw_grid(pictures, titles, heading or "No mistakes", path)


def draw_batch(
    images: np.ndarray,
    targets: np.ndarray,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    path: Path,
) -> None:
    """Draw training images as the model sees them, with their targets.

    Args:
        images: float32 `(batch, height, width, 3)`.
        targets: float32 `(batch, classes)`.
        class_names: one per class.
        mean: per channel, of pixels 0..1; (0, 0, 0) where images are pixels 0..255.
        std: likewise; (1/255, ...) there.
        path: the PNG to write.
    """
    pixels = (images * np.asarray(std, "float32") + np.asarray(mean, "float32")) * 255
    pixels = np.clip(np.rint(pixels), 0, 255).astype("uint8")[: 5 * _COLUMNS]
    titles = []
    for target in targets[: len(pixels)]:
        best = [each for each in np.argsort(-target, kind="stable")[:2] if target[each]]
        spread = target.min()  # by label smoothing
        told = [each for each in best if target[each] > spread + 1e-6] or best[:1]
        titles.append(
            "\n".join(
                f"{_short(class_names[int(each)])} {target[each]:.0%}" for each in told
            )
        )
    _draw_grid(list(pixels), titles, "Training images as the model sees them", path)


def _draw_grid(
    pictures: list[np.ndarray], titles: list[str], heading: str, path: Path
) -> None:
    from matplotlib.figure import Figure

    rows = max(1, -(-len(pictures) // _COLUMNS))
    figure = Figure(figsize=(1.5 * _COLUMNS, 1.85 * rows + 0.5), layout="constrained")
    grid: Any = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, title in zip(grid.flat, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=7, pad=2)
    figure.suptitle(heading, fontsize=11)
    _write(figure, path)


def _short(name: str) -> str:
    # Dollar signs would be read as formulas.
    name = name.replace("_", " ").replace("$", r"\$")
    return name if len(name) <= 20 else name[:19] + "…"


def _write(figure: Any, path: Path) -> None:
    with replacement(path, ".png") as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="white")
