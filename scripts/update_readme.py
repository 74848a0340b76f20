"""Writes the model table into README.md, from the registry and the catalogue.

And `models.json`, the part of the registry that is read without Keras. `--check` writes
nothing and fails if one of them is not current.
"""

import argparse
import json
import sys
from pathlib import Path

import keras_metaformer  # noqa: F401 - which fills the registry
from keras_metaformer.models import registry
from keras_metaformer.weights import catalogue

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
MODELS = ROOT / "keras_metaformer" / "models" / "models.json"
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
    for name in registry.names():
        variant = registry.get(name)
        top1 = {entry.tag: entry.top1 for entry in catalogue.for_constructor(name)}
        cells = [f"{value:.1f}" if (value := top1.get(tag)) else "" for tag in TAGS]
        lines.append(
            f"| {name} | {variant.parameters / 1e6:.1f} M | "
            f"{variant.macs / 1e9:.1f} G | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def current(text: str) -> str:
    """The README's text with the table as it should be."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{model_table()}\n{END}{after}"


def model_rows() -> str:
    """The registry as JSON, one model a line."""
    keys = ("name", "family", "parameters", "macs", "resolution")
    variants = map(registry.get, registry.names())
    rows = [{key: getattr(variant, key) for key in keys} for variant in variants]
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    wanted = {
        README: current(README.read_text(encoding="utf-8")),
        MODELS: model_rows(),
    }
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if arguments.check:
            print(f"{path.name}: the models are not current.", file=sys.stderr)
        else:
            path.write_text(wanted[path], encoding="utf-8")
    return int(bool(arguments.check and stale))


if __name__ == "__main__":
    sys.exit(main())
