"""`config.json`, in which a folder says what model it holds."""

import json
import os
from pathlib import Path
from typing import Any

CONFIG = "config.json"
_MOST_BYTES = 1 << 24


def read_config(folder: Path) -> dict[str, Any]:
    """The config of a folder: Keras' has a `class_name`, timm's an `architecture`.

    Raises:
        FileNotFoundError: if the folder has none.
        ValueError: if it is neither.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a folder with {CONFIG} and the weights. "
            f"Received: {os.fspath(folder)!r} without {CONFIG}"
        )
    try:
        with path.open("rb") as file:
            config = json.loads(file.read(_MOST_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{CONFIG} is no JSON: {error}. Received: {os.fspath(path)!r}"
        ) from error
    if not isinstance(config, dict) or not any(
        isinstance(config.get(key), str) for key in ("architecture", "class_name")
    ):
        raise ValueError(
            f"Expected a {CONFIG} of timm, with its `architecture`, or of Keras, with "
            f"its `class_name`. Received: {os.fspath(path)!r}"
        )
    return config
