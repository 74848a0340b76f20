"""State dicts of other libraries into our models, and back."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers.token_weights import TokenWeights
from keras_metaformer.weights.layouts import (
    from_pytorch,
    to_pytorch,
    with_input_channels,
)
from keras_metaformer.weights.naming import NAMINGS, Entry, Naming
from keras_metaformer.weights.structure import WeightSlot, weight_slots
from keras_metaformer.weights.token_interpolation import (
    map_of_tokens,
    resize_positions,
    resize_token_weight,
)

#: The layer that another number of classes replaces.
CLASSIFIER = "predictions"
# Of NumPy dtypes; "V" is bfloat16, which NumPy knows through ml_dtypes only.
_NUMBER_KINDS = "fiubV"


class PortingError(ValueError):
    """Tensors and weights do not match."""


def port_weights(
    model: keras.Model,
    state_dict: Mapping[str, Any],
    *,
    skip_classifier: bool = False,
    resize_tokens: bool | Sequence[int] = False,
    adapt_channels: bool = False,
) -> str:
    """Load a reference's state dict into a model, every tensor exactly once.

    The naming is recognised from the keys. Nothing is changed unless everything fits:
    every weight of the model must have its tensor, and every tensor its weight. A model
    without its top leaves the tensors of the head aside. Values are copied: the model
    keeps no hold on the arrays, nor on the file that they may be mapped from.

    Args:
        model: a model of this library.
        state_dict: NumPy arrays (or anything `np.asarray` takes) by the reference's
            keys.
        skip_classifier: bool. Whether the last layer stays as it is, for another number
            of classes.
        resize_tokens: bool, or `(height, width)`. Whether the matrices that MLP-Mixer,
            ResMLP, gMLP and RandFormer mix tokens with, and learned positions, are
            resized for the model's image size, with a warning. True takes matrices for
            those of square images; for others give the size of those images, in
            pixels.
        adapt_channels: bool. Whether a first convolution for three channels is adapted
            to the number that the model's images have, with a warning: summed for one
            channel, else repeated and rescaled, as timm's `in_chans` does.

    Returns:
        The naming's source, such as `"sail-sg/metaformer"` or `"timm"`.

    Raises:
        ValueError: if keys are in no known naming, or tensors are missing, unknown or
            misshapen. The message lists them by name.
    """
    slots = weight_slots(model)
    naming, entries = _recognise(model, slots, state_dict)
    image_size = _image_size(resize_tokens)
    first_convolution = _first_convolution(slots) if adapt_channels else None
    problems: list[str] = []
    changes: dict[str, None] = {}
    fitting: list[tuple[str, WeightSlot, np.ndarray]] = []
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
            if array.dtype.kind not in _NUMBER_KINDS or array.dtype.type is np.void:
                problems.append(f"{entry.key}: of dtype {array.dtype}, not numbers")
                continue
            if (
                ported is not None
                and image_size
                and isinstance(slot.layer, TokenWeights)
            ):
                ported, change = _resized(model, slot, ported, image_size)
                changes.update(change)
            if ported is not None and path == first_convolution:
                ported, change = _adapted(slot, ported)
                changes.update(change)
            if ported is None or ported.shape != tuple(slot.variable.shape):
                problems.append(
                    f"{entry.key}: of shape {array.shape}, which does not fit "
                    f"{path} of shape {tuple(slot.variable.shape)}"
                )
            else:
                fitting.append((entry.key, slot, ported))
    known = {entry.key for entry in entries.values() if entry is not None}
    known.update(_unused_keys(model, naming, state_dict))
    problems += [
        f"{key}: unknown, of shape {np.shape(value)}"
        for key, value in state_dict.items()
        if key not in known
    ]
    values = []
    for key, slot, array in () if problems else fitting:
        try:
            values.append((slot.variable, _copied(array, slot.variable.dtype)))
        except (TypeError, ValueError, OverflowError) as error:
            problems.append(f"{key}: of dtype {array.dtype}, not converted ({error})")
    if problems:
        raise PortingError(_report(model, naming, problems))
    for change in changes:
        warnings.warn(change, stacklevel=2)
    fitting.clear()
    for index, (variable, value) in enumerate(values):
        values[index] = (None, None)  # one copy at a time, and not all at the end
        variable.assign(value)
    return naming.name


def _copied(array: np.ndarray, dtype: str) -> np.ndarray:
    """A copy in this machine's order of bytes, which every backend takes.

    A copy in any case: JAX uses an array's own memory where it can, and that may be a
    map of a file, or belong to the caller.
    """
    return np.array(array, np.dtype(getattr(ml_dtypes, dtype, dtype)), order="C")


def token_resizer(
    model: keras.Model, resize_tokens: bool | Sequence[int], warned: dict[str, None]
) -> Any:
    """What makes weights of `TokenWeights` fit a model; None if that is not asked for.

    Args:
        model: that weights are loaded into.
        resize_tokens: as in `port_weights`.
        warned: gets what there is to warn of, as keys.

    Returns:
        `(layer, variable, array) -> array`.
    """
    image_size = _image_size(resize_tokens)
    if image_size is None:
        return None

    def resized(layer: TokenWeights, variable: Any, array: np.ndarray) -> np.ndarray:
        slot = WeightSlot(variable.path, variable, layer)
        array, change = _resized(model, slot, array, image_size)
        warned.update(change)
        return array

    return resized


def _image_size(resize_tokens: Any) -> tuple[int, int] | None:
    """Of the images that token matrices are for; `(1, 1)` is any square."""
    if isinstance(resize_tokens, bool):
        return (1, 1) if resize_tokens else None
    if (
        isinstance(resize_tokens, (tuple, list))
        and len(resize_tokens) == 2
        and all(isinstance(size, int) and size > 0 for size in resize_tokens)
    ):
        return (resize_tokens[0], resize_tokens[1])
    raise ValueError(
        "`resize_tokens` must be a bool, or the (height, width) in pixels of the "
        f"images that the weights are for. Received: resize_tokens={resize_tokens!r}"
    )


def _resized(
    model: keras.Model, slot: WeightSlot, array: np.ndarray, image_size: tuple[int, int]
) -> tuple[np.ndarray, dict[str, None]]:
    """A weight for every token for the layer's own maps, and what to warn of."""
    layer: Any = slot.layer
    axes = layer.over_tokens(slot.variable)
    if axes.is_map:
        return _resized_positions(model, slot, array)
    if array.ndim != len(slot.variable.shape):
        return array, {}
    # As a kernel `(inputs, outputs)`, whose last axis a bias has alone.
    kernel = array.T if axes.outputs_first else array

    def grids(after: tuple[int, ...] | None, axis: int) -> tuple | None:
        if after is None:
            return None
        before = map_of_tokens(kernel.shape[axis], image_size)
        return None if before is None else (before, tuple(after))

    inputs, outputs = grids(axes.inputs, 0), grids(axes.outputs, -1)
    different = [pair for pair in (inputs, outputs) if pair and pair[0] != pair[1]]
    if not different:
        return array, {}
    (rows, columns), _ = different[0]
    warning = (
        f"Resized the token-mixing matrices of {model.name!r} from maps of {rows} x "
        f"{columns} tokens for images of shape {model.input_shape[1:]}: accuracy is "
        "not promised."
    )
    resized = resize_token_weight(kernel, inputs, outputs)
    return resized.T if axes.outputs_first else resized, {warning: None}


def _resized_positions(
    model: keras.Model, slot: WeightSlot, array: np.ndarray
) -> tuple[np.ndarray, dict[str, None]]:
    height, width = slot.variable.shape[:2]
    before = array.shape[:2]
    if array.ndim != 3 or len(slot.variable.shape) != 3 or before == (height, width):
        return array, {}
    warning = (
        f"Resized the learned positions of {model.name!r} from maps of {before[0]} x "
        f"{before[1]} tokens for images of shape {model.input_shape[1:]}: accuracy is "
        "not promised."
    )
    return resize_positions(array, (height, width)), {warning: None}


def _first_convolution(slots: Mapping[str, WeightSlot]) -> str | None:
    """The path of the kernel that sees the image, if a convolution does."""
    first = next((path for path in slots if path.endswith("/kernel")), None)
    convolves = first and isinstance(slots[first].layer, keras.layers.Conv2D)
    return first if convolves else None


def _adapted(slot: WeightSlot, array: np.ndarray) -> tuple[np.ndarray, dict[str, None]]:
    """The first kernel for the model's channels, and what to warn of."""
    *area, channels, filters = slot.variable.shape
    if array.shape != (*area, 3, filters) or channels == 3:
        return array, {}
    how = "summed" if channels == 1 else "repeated and rescaled"
    warning = (
        f"The weights are for images of 3 channels, the model is for {channels}: the "
        f"kernels of its first convolution are {how}."
    )
    return with_input_channels(array, channels), {warning: None}


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
