"""The recorded steps of the reference implementation, read from tests/golden."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_FOLDER = Path(__file__).parents[1] / "golden" / "training"

FACTS: dict[str, Any] = json.loads((_FOLDER / "optimization.json").read_text("utf-8"))
ARRAYS: dict[str, np.ndarray] = dict(np.load(_FOLDER / "optimization.npz"))
#: The seven parameters, in the order of the reference.
PARAMETERS = [key.removeprefix("start/") for key in ARRAYS if key.startswith("start/")]
#: After how many steps the parameters were recorded.
RECORDED = (1, 2, 7, 14)


def of(part: str) -> list[np.ndarray]:
    """The arrays of `part` (`"start"`, `"gradient3"`) for each parameter."""
    return [ARRAYS[f"{part}/{name}"] for name in PARAMETERS]
