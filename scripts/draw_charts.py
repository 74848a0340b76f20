"""Draws published accuracy against MACs, and against latency measured here, as SVG.

Accuracy is the catalogue's, MACs are counted here, latency is that of the table in
docs/mobile.md. `--check` writes nothing and fails if a chart is not current.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from keras_metaformer_lite.listing import all_models
from keras_metaformer_lite.weights import catalogue
from scripts.page import put_drawings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images"
LATENCIES = ROOT / "docs" / "mobile.md"

#: What families are called, and the shape and colour of their points.
FAMILIES = {
    "identityformer": ("IdentityFormer", "circle", 0),
    "randformer": ("RandFormer", "square", 1),
    "poolformer": ("PoolFormer", "triangle", 2),
    "poolformer_hybrids": ("PoolFormer's hybrids", "diamond", 3),
    "poolformerv2": ("PoolFormerV2", "circle", 4),
    "convformer": ("ConvFormer", "square", 5),
    "caformer": ("CAFormer", "triangle", 0),
    "ffnet": ("FFNet", "diamond", 1),
    "mlp_mixer": ("MLP-Mixer", "circle", 2),
    "resmlp": ("ResMLP", "square", 3),
    "gmlp": ("gMLP", "triangle", 4),
}
# Six colours that differ in lightness too, and a shape for each family besides.
_STYLE = """
text { font: 13px system-ui, "Segoe UI", Roboto, sans-serif; fill: #1b1f24; }
.ground { fill: #ffffff; } .grid { stroke: #dfe3e8; } .axis { stroke: #6b737c; }
.trend { fill: none; stroke-width: 1.5; opacity: 0.55; }
.c0 { fill: #0b57a4; stroke: #0b57a4; } .c1 { fill: #b3520b; stroke: #b3520b; }
.c2 { fill: #1a7f4b; stroke: #1a7f4b; } .c3 { fill: #a1237f; stroke: #a1237f; }
.c4 { fill: #5a5f66; stroke: #5a5f66; } .c5 { fill: #b3261e; stroke: #b3261e; }
@media (prefers-color-scheme: dark) {
  text { fill: #eceff3; } .ground { fill: #14171a; } .grid { stroke: #30363d; }
  .axis { stroke: #9aa3ad; }
  .c0 { fill: #7fb8ff; stroke: #7fb8ff; } .c1 { fill: #f0a35c; stroke: #f0a35c; }
  .c2 { fill: #6fd39b; stroke: #6fd39b; } .c3 { fill: #f08ad0; stroke: #f08ad0; }
  .c4 { fill: #b9c1ca; stroke: #b9c1ca; } .c5 { fill: #ff8a80; stroke: #ff8a80; }
}
.trend { fill: none; }
"""
_WIDTH, _HEIGHT = 760, 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 190, 20, 56


@dataclasses.dataclass(frozen=True)
class Point:
    """A model: where it stands, and what it is called."""

    family: str
    name: str
    x: float
    y: float


def macs_points() -> list[Point]:
    """Accuracy of `imagenet` weights against MACs in units of 1e9."""
    models = {model.name: model for model in all_models()}
    return [
        Point(row.family, row.constructor, models[row.constructor].macs / 1e9, row.top1)
        for row in catalogue.all_checkpoints()
        if row.tag == "imagenet" and row.top1 is not None
    ]


def latency_points() -> list[Point]:
    """Accuracy against milliseconds of the `.tflite` file on two threads."""
    text = LATENCIES.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| 2 \| ([\d.]+) \|", text, flags=re.MULTILINE)
    measured = {name: float(milliseconds) for name, milliseconds in rows}
    return [
        dataclasses.replace(point, x=measured[point.name])
        for point in macs_points()
        if point.name in measured
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)):
        every = [digit * 10.0**decade for decade in decades for digit in digits]
        found = [tick for tick in every if low <= tick <= high]
        if len(found) >= 3:
            break
    return found


def _shape(kind: str, x: float, y: float, colour: int) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="c{colour}"/>'
    corners = {
        "square": "m -4 -4 h 8 v 8 h -8 z",
        "triangle": "m 0 -5.5 l 5 9 h -10 z",
        "diamond": "m 0 -6 l 5.5 6 l -5.5 6 l -5.5 -6 z",
    }[kind]
    return f'<path d="M {x:.1f} {y:.1f} {corners}" class="c{colour}"/>'


def chart(points: list[Point], axis: str, title: str) -> str:
    """An SVG with one point a model, those of a family joined, and a legend.

    Args:
        points: of all families.
        axis: words below the horizontal axis, which is logarithmic.
        title: what a screen reader says.
    """
    left, right = min(p.x for p in points) * 0.9, max(p.x for p in points) * 1.12
    low = math.floor(min(p.y for p in points)) - 1
    high = math.ceil(max(p.y for p in points)) + 1

    def across(x: float) -> float:
        part = math.log(x / left) / math.log(right / left)
        return _LEFT + part * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        part = (y - low) / (high - low)
        return _HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM)

    bottom, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    lines = []
    for y in range(low + low % 2, high + 1, 2):
        lines.append(
            f'<path d="M {_LEFT} {up(y):.1f} H {end}" class="grid"/>'
            f'<text x="{_LEFT - 8}" y="{up(y) + 4:.1f}" text-anchor="end">{y}</text>'
        )
    for x in _ticks(left, right):
        lines.append(
            f'<path d="M {across(x):.1f} {_TOP} V {bottom}" class="grid"/>'
            f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{x:g}</text>"
        )
    lines.append(f'<path d="M {_LEFT} {bottom} H {end}" class="axis"/>')
    middle = (_LEFT + end) / 2
    lines.append(
        f'<text x="{middle}" y="{_HEIGHT - 14}" text-anchor="middle">'
        f"{escape(axis)}</text>"
        f'<text transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" '
        'text-anchor="middle">published ImageNet-1k top-1, %</text>'
    )
    families = [name for name in FAMILIES if any(p.family == name for p in points)]
    for row, family in enumerate(families):
        label, kind, colour = FAMILIES[family]
        here = sorted((p for p in points if p.family == family), key=lambda p: p.x)
        path = " L ".join(f"{across(p.x):.1f} {up(p.y):.1f}" for p in here)
        if len(here) > 1 and family != "poolformer_hybrids":
            lines.append(f'<path d="M {path}" class="c{colour} trend"/>')
        for point in here:
            words = f"{point.name}: {point.y:g} %, {point.x:.3g} {axis.split(',')[0]}"
            mark = _shape(kind, across(point.x), up(point.y), colour)
            lines.append(f"<g><title>{escape(words)}</title>{mark}</g>")
        y = _TOP + 14 + 24 * row
        lines.append(_shape(kind, end + 24, y, colour))
        lines.append(f'<text x="{end + 38}" y="{y + 4}">{escape(label)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="ground" width="{_WIDTH}" height="{_HEIGHT}" rx="8"/>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def charts() -> dict[str, str]:
    """The text of every SVG, by its name."""
    return {
        "accuracy_macs": chart(
            macs_points(),
            "billion MACs, for one image of the default size",
            "Published accuracy of the models against their operations",
        ),
        "accuracy_latency": chart(
            latency_points(),
            "ms, one image by the .tflite file on two threads",
            "Published accuracy of models against their latency on a CPU",
        ),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the charts, or check them; the exit status."""
    return put_drawings(__doc__, FOLDER, charts, "the chart", arguments)


if __name__ == "__main__":
    sys.exit(main())
