"""Stand-ins for the published checkpoint files, with the golden cases' weights."""

import dataclasses
import gc
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import keras_metaformer as km
from keras_metaformer_lite.weights import cache
from keras_metaformer_lite.weights.catalogue import Checkpoint, Source, hash_prefix
from tests.golden import cases
from tests.golden.seeded import seeded_state_dict
from tests.weights import torch_files

GOOGLE = "google-research/vision_transformer"


def is_hub_file(row: Checkpoint, source: Source) -> bool:
    """Whether the file of that source is timm's on the hub."""
    return row.url(source) != row.url("official")


def naming_of(row: Checkpoint, source: Source) -> str:
    return "timm" if is_hub_file(row, source) else row.naming


def golden_case(row: Checkpoint, naming: str) -> dict[str, Any] | None:
    """The golden case of a row's architecture nearest to its file.

    Preferred are the row's own number of classes, resolution, activation and naming,
    in this order.
    """

    def distance(case: dict[str, Any]) -> tuple[bool, ...]:
        keywords = case["constructor_kwargs"]
        return (
            keywords.get("classes", 1000) != row.classes,
            case["height"] != row.resolution,
            keywords.get("activation") != row.activation,
            case["source"] != naming,
        )

    candidates = [
        case for case in cases.all_cases() if case["constructor"] == row.constructor
    ]
    return min(candidates, key=distance, default=None)


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """The content of a stand-in, and how to check what was loaded from it.

    Attributes:
        state_dict: what the file holds.
        case: the golden case that it was made from, None if the architecture has none.
        classes_of: for each class in the file its class in the golden case, None where
            they are the same.
        keywords: for the constructor, so that the golden logits come out.
    """

    state_dict: dict[str, np.ndarray]
    case: dict[str, Any] | None
    classes_of: np.ndarray | None
    keywords: dict[str, Any]


def make(row: Checkpoint, source: Source = "auto") -> Synthetic:
    """Make what the file of a row would hold had it been trained to a golden case.

    A head with more classes than the case has is made of the case's rows, drawn at
    random, so that every one of its logits is known.
    """
    naming = naming_of(row, source)
    case = golden_case(row, naming)
    if case is None:
        size = row.resolution
        model = getattr(km, row.constructor)(weights=None, input_shape=(size, size, 3))
        shapes = km.to_state_dict(model, naming)
        entries = [(key, array.shape, "float32") for key, array in shapes.items()]
        return Synthetic(seeded_state_dict(entries, 1), None, None, {})

    keywords = dict(case["constructor_kwargs"])
    classes = keywords.pop("classes", 1000)
    if keywords.get("activation") == row.activation:
        keywords.pop("activation", None)  # as the catalogue says, unasked
    elif "activation" not in keywords and row.activation is not None:
        raise AssertionError(f"no golden case with the activation of {row}")
    state_dict = cases.state_dict(case)
    if not _is_in_naming(state_dict, case, naming):
        model = getattr(km, row.constructor)(
            weights=None, classes=classes, input_shape=(case["height"],) * 2 + (3,)
        )
        km.port_weights(model, state_dict)
        state_dict = km.to_state_dict(model, naming)
        # Keras models are cyclic garbage, and this one may be of 800 MB.
        del model
        gc.collect()
    classes_of = None
    if classes != row.classes:
        draw = np.random.default_rng(row.classes)
        classes_of = draw.integers(0, classes, row.classes)
        axis = -1 if naming == GOOGLE else 0
        state_dict = {
            key: array.take(classes_of, axis)
            if key.startswith("head") and array.shape[axis] == classes
            else array
            for key, array in state_dict.items()
        }
    return Synthetic(state_dict, case, classes_of, keywords)


def _is_in_naming(
    state_dict: dict[str, np.ndarray], case: dict[str, Any], naming: str
) -> bool:
    # The cases of timm's MetaFormer baselines have the official keys.
    baseline = "downsample_layers.0.conv.weight" in state_dict
    return naming == ("sail-sg/metaformer" if baseline else case["source"])


def write(row: Checkpoint, source: Source, state_dict: dict[str, np.ndarray]) -> Path:
    """Write the file in the container of the source, where the cache looks for it."""
    path = cache.hand_placed_path(row, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, row.naming, state_dict)
    return path


def write_file(path: Path, naming: str, state_dict: dict[str, np.ndarray]) -> None:
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(state_dict, path)
        return
    if path.suffix == ".npz":
        np.savez(path, **state_dict)  # pyright: ignore[reportArgumentType]
        return
    contents: Any = torch_files.tensors(state_dict)
    if path.name.endswith(".pth.tar"):
        contents = {"epoch": 300, "arch": "model", "state_dict": contents}
    # timm publishes the legacy layout, readable by every PyTorch.
    legacy = naming == "timm" or naming == "sail-sg/poolformer"
    layout = torch_files.legacy_bytes if legacy else torch_files.zip_bytes
    path.write_bytes(layout(contents))


def has_known_hash(row: Checkpoint, source: Source) -> bool:
    """Whether the file's name tells its SHA-256, which no stand-in can have."""
    return hash_prefix(row.url(source)) is not None
