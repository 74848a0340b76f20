"""Writes the model table into README.md, from the families and the catalogue.

And `models.json`, the part of them that is read without Keras. `--check` writes
nothing and fails if one of them is not current.
"""

import argparse
import json
import sys
from pathlib import Path

import keras_metaformer  # noqa: F401 - which defines the families
from keras_metaformer.models import families
from keras_metaformer_lite.weights import catalogue
from scripts.page import around, put

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MODELS = ROOT / "keras_metaformer_lite" / "models.json"
START = "<!-- model table: written by scripts/update_readme.py -->\n"
END = "<!-- end of the model table -->\n"
TAGS = (
    "imagenet",
    "imagenet_384",
    "imagenet21k_ft1k",
    "imagenet21k_ft1k_384",
    "imagenet_distilled",
)


def model_table() -> str:
    """One row per constructor: costs, and published top-1 for each tag."""
    lines = [
        f"| Model | Parameters | MACs | {' | '.join(f'`{tag}`' for tag in TAGS)} |",
        f"|---|--:|--:|{'--:|' * len(TAGS)}",
    ]
    for name in families.names():
        variant = families.get(name)
        top1 = {entry.tag: entry.top1 for entry in catalogue.named(name)}
        cells = [f"{value:.1f}" if (value := top1.get(tag)) else "" for tag in TAGS]
        lines.append(
            f"| {name} | {variant.parameters / 1e6:.1f} M | "
            f"{variant.macs / 1e9:.1f} G | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def model_rows() -> str:
    """The models as JSON, one model a line."""
    keys = ("name", "family", "parameters", "macs", "resolution")
    variants = map(families.get, families.names())
    rows = [{key: getattr(variant, key) for key in keys} for variant in variants]
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    before, after = around(README, START, END)
    table = f"{before}\n{model_table()}\n{after}"
    check = arguments.check
    return int(
        put(README, table, "the model table", check)
        or put(MODELS, model_rows(), "the list of models", check)
    )


if __name__ == "__main__":
    sys.exit(main())
