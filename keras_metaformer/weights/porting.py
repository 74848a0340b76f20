"""State dicts of other libraries into our models, and back."""

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.weights.layouts import from_pytorch, to_pytorch
from keras_metaformer.weights.naming import NAMINGS, Entry, Naming
from keras_metaformer.weights.structure import WeightSlot, weight_slots

#: The layer that another number of classes replaces.
CLASSIFIER = "predictions"
# Of NumPy dtypes; "V" is bfloat16, which NumPy knows through ml_dtypes only.
_NUMBER_KINDS = "fiubV"


def port_weights(
    model: keras.Model,
    state_dict: Mapping[str, Any],
    *,
    skip_classifier: bool = False,
) -> str:
    """Load a reference's state dict into a model, every tensor exactly once.

    The naming is recognised from the keys. Nothing is changed unless everything fits:
    every weight of the model must have its tensor, and every tensor its weight. A model
    without its top leaves the tensors of the head aside.

    Args:
        model: a model of this library.
        state_dict: NumPy arrays (or anything `np.asarray` takes) by the reference's
            keys.
        skip_classifier: bool. Whether the last layer stays as it is, for another number
            of classes.

    Returns:
        The naming's source, such as `"sail-sg/metaformer"` or `"timm"`.

    Raises:
        ValueError: if keys are in no known naming, or tensors are missing, unknown or
            misshapen. The message lists them by name.
    """
    slots = weight_slots(model)
    naming, entries = _recognise(model, slots, state_dict)
    problems: list[str] = []
    fitting: list[tuple[WeightSlot, np.ndarray]] = []
    for path, slot in slots.items():
        if skip_classifier and path.startswith(f"{CLASSIFIER}/"):
            continue
        entry = entries[path]
        if entry is None:
            problems.append(f"{path}: has no name in this naming")
        elif entry.key not in state_dict:
            problems.append(f"{entry.key}: missing (for {path})")
        else:
            array = np.asarray(state_dict[entry.key])
            ported = from_pytorch(slot, array) if naming.transposed else array
            if array.dtype.kind not in _NUMBER_KINDS:
                problems.append(f"{entry.key}: of dtype {array.dtype}, not numbers")
            elif ported is None or ported.shape != tuple(slot.variable.shape):
                problems.append(
                    f"{entry.key}: of shape {array.shape}, which does not fit "
                    f"{path} of shape {tuple(slot.variable.shape)}"
                )
            else:
                fitting.append((slot, ported))
    known = {entry.key for entry in entries.values() if entry is not None}
    known.update(_unused_keys(model, naming, state_dict))
    problems += [
        f"{key}: unknown, of shape {np.shape(value)}"
        for key, value in state_dict.items()
        if key not in known
    ]
    if problems:
        raise ValueError(_report(model, naming, problems))
    for slot, array in fitting:
        slot.variable.assign(array)
    return naming.name


def classifier_width(model: keras.Model, state_dict: Mapping[str, Any]) -> int | None:
    """The number of classes in a state dict, or None where it or the model has none.

    Raises:
        ValueError: if the keys are in no known naming.
    """
    slots = weight_slots(model)
    _, entries = _recognise(model, slots, state_dict)
    entry = entries.get(f"{CLASSIFIER}/bias")
    if entry is None or entry.key not in state_dict:
        return None
    shape = np.shape(state_dict[entry.key])
    return shape[0] if shape else None


def to_state_dict(
    model: keras.Model, naming: str = "official"
) -> dict[str, np.ndarray]:
    """The weights of a model under a reference's keys and in its order of axes.

    The official code and timm load the result strictly, and `port_weights` reads it
    back bit for bit.

    Args:
        model: a model of this library.
        naming: `"official"`, `"timm"`, or a source such as `"sail-sg/poolformer"`.

    Returns:
        NumPy arrays by key, in the dtype of the weights.

    Raises:
        ValueError: if the naming is unknown, or has no name for one of the weights.
    """
    slots = weight_slots(model)
    candidates = [
        candidate
        for candidate in NAMINGS
        if naming == candidate.name
        or (naming == "official" and candidate.name != "timm")
    ]
    if not candidates:
        expected = ["official", *dict.fromkeys(known.name for known in NAMINGS)]
        raise ValueError(
            f"`naming` must be one of {expected}. Received: naming={naming!r}"
        )
    for candidate in candidates:
        entries = candidate.entries(slots)
        if all(entry is not None for entry in entries.values()):
            return {
                entry.key: _exported(slots[path], entry, candidate)
                for path, entry in entries.items()
                if entry is not None
            }
    raise ValueError(
        f"{naming!r} has no names for all weights of this model. "
        f"Received: model={model.name!r}"
    )


def _exported(slot: WeightSlot, entry: Entry, naming: Naming) -> np.ndarray:
    array = to_numpy(slot.variable)
    if naming.transposed:
        array = to_pytorch(slot, array, entry.as_convolution)
    for pattern, shape in naming.vectors:
        if re.fullmatch(pattern, entry.key):
            array = array.reshape(shape)
    return np.ascontiguousarray(array)


def _recognise(
    model: keras.Model,
    slots: Mapping[str, WeightSlot],
    state_dict: Mapping[str, Any],
) -> tuple[Naming, dict[str, Entry | None]]:
    """The naming that shares most keys with the state dict, and its entries."""
    best, best_entries, most = None, {}, 0
    for naming in NAMINGS:
        entries = naming.entries(slots)
        shared = sum(
            entry is not None and entry.key in state_dict for entry in entries.values()
        )
        if shared > most:
            best, best_entries, most = naming, entries, shared
    if best is None:
        raise ValueError(
            f"The keys are in no naming known for {model.name!r}: expected a state "
            f"dict of {list(dict.fromkeys(known.name for known in NAMINGS))}. "
            f"Received: {list(state_dict)[:5]} and so on, {len(state_dict)} keys"
        )
    return best, best_entries


def _unused_keys(
    model: keras.Model, naming: Naming, state_dict: Mapping[str, Any]
) -> set[str]:
    """Keys that may stay unused: counters, and the head where there is no top."""
    unused = {key for key in state_dict if re.fullmatch(naming.ignored, key)}
    if CLASSIFIER not in {layer.name for layer in model.layers}:
        head = tuple(
            template + naming.separator
            for pattern, template in naming.rules
            if pattern == CLASSIFIER or pattern.startswith("head_")
        )
        unused.update(key for key in state_dict if key.startswith(head))
    return unused


def _report(model: keras.Model, naming: Naming, problems: list[str]) -> str:
    lines = "\n  ".join(problems)
    return (
        f"The state dict, in the naming of {naming.name}, does not fit {model.name!r}; "
        f"the model is unchanged. {len(problems)} problems:\n  {lines}"
    )
