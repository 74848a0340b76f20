"""Draws the ablations that were trained on digits, and writes their tables.

    .venv/bin/python -m scripts.draw_ablations

reads `docs/ablations_digits.csv`, which `examples.ablations --csv` wrote, and writes
`docs/images/ablations_digits.png` and the tables in `docs/ablations.md`. `--check`
writes nothing and fails if those tables are not current.
"""

import argparse
import sys
from pathlib import Path

from examples.ablations import draw, read_csv, text
from keras_metaformer_lite.weights.disk import replacement
from scripts.page import around, put

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROWS = DOCS / "ablations_digits.csv"
CHART = DOCS / "images" / "ablations_digits.png"
PAGE = DOCS / "ablations.md"
START = "<!-- ablations on digits: written by scripts/draw_ablations.py -->\n"
END = "<!-- end of the ablations on digits -->\n"


def wanted() -> str:
    """The page with the tables of the file."""
    before, after = around(PAGE, START, END)
    tables = "\n\n".join(map(text, read_csv(ROWS)))
    return f"{before}\n{tables}\n\n{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        with replacement(CHART, ".png") as temporary:
            draw(read_csv(ROWS), temporary)
    return put(PAGE, wanted(), "the tables of ablations", arguments.check)


if __name__ == "__main__":
    sys.exit(main())
