"""Writes the table of exported files into docs/mobile.md, from the tests' reports.

    for name in tensorflow jax torch; do
      KERAS_BACKEND=$name pytest tests/export/test_families.py --junitxml $name.xml
    done
    python -m benchmarks.litert_files tensorflow.xml jax.xml torch.xml

Each report is what `to_litert` measured on a file of the smallest model of a family.
"""

import argparse
import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

from scripts.page import around, replace

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mobile.md"
CSV = ROOT / "benchmarks" / "results" / "litert" / "files.csv"
START = "<!-- files: written by benchmarks/litert_files.py -->\n"
END = "<!-- end of the files -->\n"

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
FORMATS = ("float32", "float16", "dynamic")


def read_reports(file: Path) -> list[dict]:
    """A row for each report in a JUnit file of pytest."""
    rows = []
    for reported in ElementTree.parse(file).iter("property"):
        backend, model, quantize = reported.attrib["name"].split()
        report = json.loads(reported.attrib["value"])
        rows.append(
            {
                "backend": backend,
                "model": model,
                "format": quantize,
                "size_bytes": report["size_bytes"],
                "maximal_rank": report["maximal_rank"],
                "xnnpack_partitions": report["xnnpack_partitions"],
                "outside_xnnpack": len(report["outside_xnnpack"]),
                "gpu": report["gpu"],
                "relative_difference": report["relative_difference"],
                "top1_agreement": report["top1_agreement"],
                "images": report["images"],
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """A line per model: what holds of all of its files, differences, sizes."""
    lines = [
        "| model | largest rank | XNNPACK pieces | whole on the GPU | "
        + " | ".join(f"float32, {name}" for name in BACKENDS.values())
        + " | float16 | dynamic | MB | float16 | dynamic |",
        f"|---|{'--:|' * 11}",
    ]
    for model in sorted({row["model"] for row in rows}):
        files = [row for row in rows if row["model"] == model]
        whole = sum(row["gpu"].startswith("compiled whole") for row in files)
        pieces = max(
            row["xnnpack_partitions"] + row["outside_xnnpack"] for row in files
        )
        cells = [
            max(row["maximal_rank"] for row in files),
            pieces,
            f"{whole} of {len(files)}",
            *(
                _largest(files, "relative_difference", format="float32", backend=name)
                for name in BACKENDS
            ),
            *(_largest(files, "relative_difference", format=f) for f in FORMATS[1:]),
            *(_largest(files, "size_bytes", format=f) for f in FORMATS),
        ]
        lines.append(f"| {model} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _largest(rows: list[dict], column: str, **fields: str) -> str:
    values = [
        row[column]
        for row in rows
        if all(row[name] == value for name, value in fields.items())
    ]
    if not values:
        return ""
    largest = max(values)
    return f"{largest / 1e6:.1f}" if column == "size_bytes" else f"{largest:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="JUnit files of pytest")
    parser.add_argument("--csv", type=Path, default=CSV)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    before, after = around(arguments.page, START, END)
    rows = [row for file in arguments.files for row in read_reports(file)]
    if not rows:
        parser.error(f"no reports in them. Received: {arguments.files}")
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace(arguments.csv, text.getvalue())
    replace(arguments.page, f"{before}\n{table(rows)}\n{after}")


if __name__ == "__main__":
    main()
