"""Writes the model table into README.md, from the registry and the catalogue.

`--check` writes nothing and fails if the table is not current.
"""

import argparse
import sys
from pathlib import Path

from keras_metaformer.models import registry
from keras_metaformer.weights import catalogue

README = Path(__file__).resolve().parent.parent / "README.md"
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    wanted = current(text)
    if arguments.check:
        if text != wanted:
            print("README.md: the model table is not current.", file=sys.stderr)
        return int(text != wanted)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
