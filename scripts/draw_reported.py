"""Draws the accuracies that papers report over their models' operations.

    .venv/bin/python -m scripts.draw_reported

reads `docs/reported_accuracy.csv`, each row of which names its source, and writes
`docs/images/reported_accuracy.png` and the table in `docs/reported.md`. `--check`
writes nothing and fails if that table is not current.
"""

import argparse
import csv
import sys
from pathlib import Path

from keras_metaformer.explain.results import PALETTE, new_figure, tidy
from keras_metaformer_lite.weights.disk import replacement
from scripts.page import around, put

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE = DOCS / "reported_accuracy.csv"
CHART = DOCS / "images" / "reported_accuracy.png"
PAGE = DOCS / "reported.md"
START = "<!-- reported accuracies: written by scripts/draw_reported.py -->\n"
END = "<!-- end of the reported accuracies -->\n"
#: Families of this library, with a full line; the others have a dashed one.
OURS = {
    "IdentityFormer": (PALETTE[7], "v"),
    "PoolFormer": (PALETTE[5], "D"),
    "PoolFormerV2": (PALETTE[2], "^"),
    "ConvFormer": (PALETTE[0], "s"),
    "CAFormer": (PALETTE[4], "o"),
    "FFNet": (PALETTE[3], "P"),
}
OTHERS = {
    "RSB-ResNet": ("#777777", "x"),
    "Swin": (PALETTE[1], "X"),
    "ConvNeXt": ("#777777", "+"),
    "CoAtNet": (PALETTE[1], "*"),
}


def rows() -> list[dict[str, str]]:
    """The table, in its order."""
    with TABLE.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def draw(path: Path) -> None:
    """Writes the chart.

    Args:
        path: the PNG.
    """
    figure = new_figure((8.0, 5.5))
    axes = figure.subplots()
    for family, (color, marker) in (OTHERS | OURS).items():
        points = sorted(
            (float(row["macs_billions"]), float(row["top1_percent"]))
            for row in rows()
            if row["family"] == family
        )
        axes.plot(
            *zip(*points, strict=True),
            color=color,
            marker=marker,
            linestyle="-" if family in OURS else "--",
            linewidth=1.4,
            label=family,
        )
    axes.set_xlabel("billion multiply-accumulate operations for one image")
    axes.set_ylabel("ImageNet-1K top-1 accuracy, %, as reported")
    axes.set_xlim(0, 36)
    axes.set_title(
        "Trained on ImageNet-1K alone at 224 pixels (FFNet: 256); reported by the "
        "sources, not measured here",
        fontsize=9,
    )
    axes.legend(frameon=False, ncols=2, fontsize=8, loc="lower right")
    tidy(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path, ".png") as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="white")


def table() -> str:
    """The rows as Markdown."""
    lines = [
        "| Model | Image | Parameters | MACs | Top-1, reported | Source |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in rows():
        lines.append(
            f"| {row['model']} | {row['resolution']} | {row['parameters_millions']} M "
            f"| {row['macs_billions']} G | {row['top1_percent']} | {row['source']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    before, after = around(PAGE, START, END)
    if not arguments.check:
        draw(CHART)
    return put(PAGE, before + table() + after, "the reported table", arguments.check)


if __name__ == "__main__":
    sys.exit(main())
