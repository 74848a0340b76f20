"""Writes the tables of models into README.md and the zoo, from families and catalogue.

And `models.json`, the part of them that is read without Keras. `--check` writes
nothing and fails if one of them is not current.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import keras_metaformer  # noqa: F401 - which defines the families
from keras_metaformer.models import families
from keras_metaformer.models.keywords import FOREIGN_WORDS
from keras_metaformer_lite.weights import catalogue
from keras_metaformer_lite.weights.timm_names import timm_name
from scripts.page import around, put

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "keras_metaformer_lite" / "models.json"
_WORDS = (
    "<!-- words: written by scripts/update_readme.py -->\n",
    "<!-- end of the words -->\n",
)
START = "<!-- model table: written by scripts/update_readme.py -->\n"
END = "<!-- end of the model table -->\n"
TAGS = (
    "imagenet",
    "imagenet_384",
    "imagenet21k_ft1k",
    "imagenet21k_ft1k_384",
    "imagenet_distilled",
)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _costs(variant: families.Variant) -> tuple[str, str]:
    return f"{variant.parameters / 1e6:.1f} M", f"{variant.macs / 1e9:.1f} G"


def _top1(name: str) -> dict[str, float]:
    """Published ImageNet-1k accuracies of a model by their tags."""
    rows = catalogue.named(name)
    return {row.tag: row.top1 for row in rows if row.top1 is not None}


def zoo_table() -> str:
    """One row per constructor: costs, published top-1 for each tag, timm's name."""
    header = ("Model", "Parameters", "MACs", *(f"`{tag}`" for tag in TAGS), "In timm")
    lines = [_row(header), f"|---|{'--:|' * (len(header) - 2)}---|"]
    for name in families.names():
        top1 = _top1(name)
        accuracies = [f"{top1[tag]:.1f}" if tag in top1 else "" for tag in TAGS]
        other = timm_name(name)
        cells = (name, *_costs(families.get(name)), *accuracies)
        lines.append(_row((*cells, f"`{other}`" if other else "")))
    return "\n".join(lines) + "\n"


def best_models() -> list[str]:
    """Of each family the model of the highest published accuracy, the best first.

    The hybrids of PoolFormer's paper, of one size, are steps between its families.
    """
    best: dict[str, str] = {}
    for name in families.names():
        family = families.get(name).family
        if not _top1(name) or family == "poolformer_hybrids":
            continue
        known = best.setdefault(family, name)
        if max(_top1(name).values()) > max(_top1(known).values()):
            best[family] = name
    return sorted(best.values(), key=lambda name: -max(_top1(name).values()))


def short_table() -> str:
    """The best of each family: what it costs, and its best published weights."""
    header = ("Model", "Parameters", "MACs", "`imagenet`", "best", "with `weights=`")
    lines = [_row(header), "|---|--:|--:|--:|--:|---|"]
    for name in best_models():
        top1 = _top1(name)
        tag = max(top1, key=lambda tag: top1[tag])
        trained = f"{top1['imagenet']:.1f}" if "imagenet" in top1 else ""
        cells = (name, *_costs(families.get(name)), trained, f"{top1[tag]:.1f}")
        lines.append(_row((*cells, f'`"{tag}"`')))
    return "\n".join(lines) + "\n"


def word_table() -> str:
    """What arguments of other libraries are called here."""
    lines = [_row(("elsewhere", "here")), "|---|---|"]
    lines += [_row((f"`{word}`", here)) for word, here in FOREIGN_WORDS.items()]
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
    check = parser.parse_args().check
    reference = ROOT / "docs" / "reference"
    pages = {
        ROOT / "README.md": (short_table(), START, END),
        reference / "zoo.md": (zoo_table(), START, END),
        reference / "from-timm.md": (word_table(), *_WORDS),
    }
    statuses = [put(MODELS, model_rows(), "the list of models", check)]
    for page, (table, start, end) in pages.items():
        before, after = around(page, start, end)
        statuses.append(put(page, f"{before}\n{table}\n{after}", "the table", check))
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
