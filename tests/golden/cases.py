"""The golden cases as test parameters."""

import functools
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.seeded import seeded_images, seeded_state_dict

_HERE = Path(__file__).parent
#: Constructors of the index that the package does not have yet. A test fails when this
#: list is out of date.
MISSING_CONSTRUCTORS: frozenset[str] = frozenset()


@functools.cache
def all_cases() -> list[dict[str, Any]]:
    return json.loads((_HERE / "index.json").read_text("utf-8"))


@functools.cache
def _entries() -> dict[str, list]:
    with gzip.open(_HERE / "entries.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


@functools.cache
def initial_values() -> dict[str, dict[str, Any]]:
    """For each model its source, stochastic-depth rates and parameters' statistics."""
    with gzip.open(_HERE / "initial_values.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def state_dict(case: dict[str, Any]) -> dict[str, np.ndarray]:
    return seeded_state_dict(_entries()[case["entries"]], case["seed"])


def images(case: dict[str, Any]) -> np.ndarray:
    return seeded_images(case["batch"], case["height"], case["width"], case["seed"])


def logits(case: dict[str, Any]) -> np.ndarray:
    with np.load(_HERE / "logits.npz") as arrays:
        return arrays[case["id"]]
