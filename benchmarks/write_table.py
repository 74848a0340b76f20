"""Writes the results table into docs/performance.md, from the command's CSV files.

python -m benchmarks.write_table                  # all of benchmarks/results
python -m benchmarks.write_table run.csv --check  # fails if the page is not current
"""

import argparse
import csv
import sys
from pathlib import Path

from scripts.page import around, put

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "performance.md"
START = "<!-- results: written by benchmarks/write_table.py -->\n"
END = "<!-- end of the results -->\n"
_GROUP = ("mode", "dtype", "device", "resolution")
_VERSIONS = ("keras", "tensorflow", "jax", "torch", "timm", "numpy")


def results(files: list[Path]) -> str:
    """A section of Markdown for each file; a table for each kind of run in it."""
    if not files:
        return "Not measured yet.\n"
    return "\n".join(_section(file) for file in files)


def _section(file: Path) -> str:
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    if not rows:
        raise SystemExit(f"There are no rows in the file. Received: {str(file)!r}")
    first = rows[0]
    versions = {
        name: row[name] for name in _VERSIONS for row in rows if row[name]
    }  # each contender knows those of its own environment
    cores = "1 core" if first["cores"] == "1" else f"{first['cores']} cores"
    machine = f"{first['device_name'] or first['cpu']}, {cores}"
    lines = [
        f"### {machine}, {first['date'][:10]}",
        "",
        ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; revision {first['revision']}; {first['ram_gib']} GiB of memory; "
        + f"other programs took {_other_load(rows)} cores. All numbers: "
        + f"`{file.name}`.",
        "",
    ]
    for variables in dict.fromkeys(row.get("variables") for row in rows):
        if variables:
            lines += [f"Rows with ↓: run with `{variables}`.", ""]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in _GROUP), []).append(row)
    for (mode, dtype, device, resolution), found in groups.items():
        lines += [
            f"{mode.capitalize()}, {dtype}, {device}, {resolution} pixels: "
            "milliseconds per batch [quartiles] (ratio to the baseline; ratio to the "
            "roofline).",
            "",
            *_table(found),
            "",
        ]
    return "\n".join(lines)


def _other_load(rows: list[dict]) -> str:
    loads = [float(row["other_load"]) for row in rows if row["other_load"]]
    return f"{sum(loads) / len(loads):.2f}" if loads else "an unknown number of"


def _table(rows: list[dict]) -> list[str]:
    """A line per contender, a column per model and batch."""
    columns = list(dict.fromkeys((row["model"], row["batch"]) for row in rows))
    contenders = list(dict.fromkeys(_named(row) for row in rows))
    cells = {(_named(row), row["model"], row["batch"]): _cell(row) for row in rows}
    titles = [f"{model}, batch {batch}" for model, batch in columns]
    return [
        f"| | {' | '.join(titles)} |",
        f"|---|{'--:|' * len(columns)}",
        *(
            f"| {contender} | "
            + " | ".join(cells.get((contender, *column), "") for column in columns)
            + " |"
            for contender in contenders
        ),
    ]


def _named(row: dict) -> str:
    """The contender, marked where variables change what it runs with."""
    return row["contender"] + (" ↓" if row.get("variables") else "")


def _cell(row: dict) -> str:
    if row["status"] != "ok":
        return row["status"]
    ratios = "; ".join(
        f"{float(row[name]):.2f}" if row[name] else "-"
        for name in ("ratio", "roofline_ratio")
    )
    is_baseline = row["contender"] == row["baseline"]
    median = f"{float(row['median_ms']):.4g}"
    spread = f"{float(row['q1_ms']):.4g}-{float(row['q3_ms']):.4g}"
    return f"{f'**{median}**' if is_baseline else median} [{spread}] ({ratios})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    files = arguments.files or sorted((HERE / "results").glob("*.csv"))
    before, after = around(arguments.page, START, END)
    wanted = f"{before}\n{results(files)}\n{after}"
    return put(arguments.page, wanted, "the results", arguments.check)


if __name__ == "__main__":
    sys.exit(main())
