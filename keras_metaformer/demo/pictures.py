"""The demo's two pictures: learning curves, and digits with their predictions."""

import os
from pathlib import Path
from typing import Any

import numpy as np

_BLUE, _ORANGE, _RED, _GREY = "#1f5fa8", "#e07b00", "#c62828", "#555555"
_ROWS, _COLUMNS = 5, 12


def draw_curves(history: dict[str, list[float]], path: Path) -> None:
    """Draw loss and error over the epochs.

    Args:
        history: as `train` returns it.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = np.arange(1, len(history["loss"]) + 1)
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, train, held_out in (
        (left, history["loss"], history["val_loss"]),
        (
            right,
            [1 - value for value in history["accuracy"]],
            [1 - value for value in history["val_accuracy"]],
        ),
    ):
        axes.plot(epochs, train, color=_BLUE, marker="o", ms=3, label="training")
        axes.plot(epochs, held_out, color=_ORANGE, marker="s", ms=3, label="held out")
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    left.set_title("Loss (smoothed labels)", fontsize=11)
    right.set_title("Wrong answers", fontsize=11)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    last = history["val_accuracy"][-1]
    right.annotate(
        f"held out, at the end:\n{1 - last:.1%} wrong",
        xy=(float(epochs[-1]), 1 - last),
        xytext=(0.97, 0.55),
        textcoords="axes fraction",
        ha="right",
        fontsize=9,
        color=_GREY,
        arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.7},
    )
    # Training digits are shifted and rotated, so they are the harder ones.
    left.legend(frameon=False, title="training digits are moved at random")
    left.get_legend().get_title().set_fontsize(8)
    _write(figure, path)


def draw_digits(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, path: Path
) -> None:
    """Draw digits with the model's answers: wrong and doubtful ones first.

    Args:
        images: uint8 `(number, height, width, 3)`.
        labels: int `(number,)`.
        probabilities: float `(number, classes)`.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    answers = probabilities.argmax(axis=-1)
    confidence = probabilities.max(axis=-1)
    wrong = answers != labels
    # All wrong answers and the least certain of the right ones fill the first half,
    # the others, in the order of the data set, the rest.
    order = np.lexsort((confidence, ~wrong))
    doubtful = order[: _ROWS * _COLUMNS // 2]
    others = np.setdiff1d(np.arange(len(labels)), doubtful)
    shown = np.concatenate([doubtful, others])[: _ROWS * _COLUMNS]

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    grid: Any = figure.subplots(_ROWS, _COLUMNS)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, index in zip(grid.flat, shown, strict=False):
        color = _RED if wrong[index] else _GREY
        text = f"{answers[index]}  {confidence[index]:.0%}"
        if wrong[index]:
            text = f"{answers[index]}, not {labels[index]}"
        axes.imshow(images[index, ..., 0], cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(
            text,
            fontsize=8,
            pad=2,
            color=color,
            fontweight="bold" if wrong[index] else "normal",
        )
        if wrong[index]:
            axes.set_axis_on()
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(_RED)
                spine.set_linewidth(2)
    figure.suptitle(
        f"{len(labels) - wrong.sum()} of {len(labels)} held-out digits read right by "
        "the LiteRT model; the wrong (red) and least certain first",
        fontsize=11,
    )
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=120, facecolor="white")
    os.replace(temporary, path)
