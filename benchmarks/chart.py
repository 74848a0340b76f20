"""The rows as a picture."""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row

_COLOURS = {"ours": "#0b6e4f", "stock": "#8d99ae", "roofline": "#2b2d42"}
_OTHERS = "#d1495b"
_CASE = ("model", "mode", "batch", "dtype", "device", "resolution")


def write_chart(rows: Sequence[Row], path: Path) -> None:
    """Draws a panel of bars for each case, and writes it first under another name.

    A bar is the median, the line on it reaches from the first to the third quartile.

    Args:
        rows: as `make_rows` gives them.
        path: of the PNG.

    Raises:
        ValueError: if nothing was measured.
    """
    cases: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["median_ms"] is not None:
            cases.setdefault(tuple(row[key] for key in _CASE), []).append(row)
    if not cases:
        raise ValueError("A chart needs at least one measured contender. Received: 0")
    # Neither pyplot nor a window system: a figure that is only saved.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [len(each) + 1.6 for each in cases.values()]
    figure = Figure(figsize=(8, 0.28 * sum(heights) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for panel, (case, found) in zip(panels, cases.items(), strict=True):
        _draw(panel, case, found)
    panels[-1].set_xlabel("milliseconds per batch, median and quartiles", size=8)
    about = rows[0]
    where = about["device_name"] or about["cpu"] or "unknown processor"
    figure.suptitle(f"{where}, {about['cores']} cores, {about['date'][:10]}", size=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(temporary, format="png", dpi=130)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _draw(panel, case: tuple, rows: list[Row]) -> None:
    model, mode, batch, dtype, device, resolution = case
    title = f"{model}, {mode}, batch {batch}, {dtype}, {device}, {resolution} pixels"
    baseline = next((row["baseline"] for row in rows if row["baseline"]), None)
    if baseline is not None:
        title += f"; x = times {baseline}"
    panel.set_title(title, size=9, loc="left")
    rows = sorted(rows, key=lambda row: row["median_ms"], reverse=True)
    medians = [row["median_ms"] for row in rows]
    spread = [
        [row["median_ms"] - row["q1_ms"] for row in rows],
        [row["q3_ms"] - row["median_ms"] for row in rows],
    ]
    kinds = [row["contender"].split("@")[0].split("+")[0] for row in rows]
    panel.barh(
        [row["contender"] for row in rows],
        medians,
        xerr=spread,
        color=[_COLOURS.get(kind, _OTHERS) for kind in kinds],
        error_kw={"elinewidth": 1, "ecolor": "#555555"},
        height=0.7,
    )
    for position, row in enumerate(rows):
        ratio = "" if row["ratio"] is None else f"  x {row['ratio']:.2f}"
        panel.annotate(
            f"{row['median_ms']:.4g}{ratio}",
            (row["q3_ms"], position),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            size=7,
        )
    panel.set_xlim(0, 1.2 * max(row["q3_ms"] for row in rows))
    panel.margins(y=0.02)
    panel.tick_params(labelsize=7)
    panel.spines[["top", "right"]].set_visible(False)
