"""One file that holds all of a run, so that it goes on as if never interrupted."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from io import BufferedWriter
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer_lite.weights.disk import replacement

_FORMAT = "keras_metaformer.training_state"
_VERSION = "1"
#: What of a callback's attributes goes into the JSON part as it is.
_SCALARS = (bool, int, float, str, type(None))
#: Attributes that hold what a callback was given. `EarlyStopping` turns the sign of its
#: `min_delta` when it first compares, and would do so once more after a restart.
_NO_MEMORY = ("_model", "params", "min_delta")
_SAFETENSORS_DTYPES = {
    "bool": "BOOL",
    "bfloat16": "BF16",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read, or is of something else."""


def write_state(
    path: Path,
    arrays: Mapping[str, np.ndarray | keras.Variable],
    about: Mapping[str, Any],
) -> None:
    """Write a checkpoint under another name, then renames it into place.

    The bytes are on the disk before the name is: after a crash of the process or of the
    machine the file is the old one or the new one, whole. Variables are copied to the
    host one by one, so that no second copy of a model is ever in memory.

    Args:
        path: the `.safetensors` file to write, in a folder that exists.
        arrays: NumPy arrays or variables of any shape and number type, bfloat16
            included.
        about: what JSON can hold.

    Raises:
        CheckpointError: if it cannot be written, on a full disk for one. What was there
            is there still.
    """
    metadata = {"format": _FORMAT, "version": _VERSION, "about": json.dumps(about)}
    try:
        with (
            replacement(path, ".safetensors") as temporary,
            temporary.open("wb") as stream,
        ):
            _write(stream, arrays, metadata)
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"Expected to write a checkpoint: {error}. What was there is unchanged. "
            f"Received: path={str(path)!r}"
        ) from error


def _write(
    stream: BufferedWriter,
    arrays: Mapping[str, np.ndarray | keras.Variable],
    metadata: Mapping[str, str],
) -> None:
    """Write a `.safetensors` file, array by array.

    safetensors' own `save_file` wants all arrays in memory at once.
    """
    dtypes = {name: _dtype(value) for name, value in arrays.items()}
    # As safetensors does it: what is wide comes first, so that all are aligned.
    order = sorted(arrays, key=lambda name: (-dtypes[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        shape, start = tuple(arrays[name].shape), end
        end += math.prod(shape) * dtypes[name].itemsize
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[dtypes[name].name],
            "shape": shape,
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    stream.write(len(encoded).to_bytes(8, "little"))
    stream.write(encoded)
    for name in order:
        value = np.asarray(_value(arrays[name]), order="C")
        stream.write(value.reshape(-1).view("uint8").data)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # where a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_about(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint; reads no array.

    Raises:
        CheckpointError: if the file is none of `write_state`.
    """
    return _read(path, with_arrays=False)[1]


def read_state(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the JSON part of a checkpoint.

    Raises:
        CheckpointError: if the file is none of `write_state`.
    """
    return _read(path, with_arrays=True)


def _read(
    path: Path, with_arrays: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    received = f"Received: path={str(path)!r}"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays: dict[str, np.ndarray] = {}
            if with_arrays:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"Expected the checkpoint of a training run: {error}. {received}"
        ) from error
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise CheckpointError(
            "Expected the checkpoint of a training run of this version; the file says "
            f"format={metadata.get('format')!r}, version={metadata.get('version')!r}. "
            f"{received}"
        )
    return arrays, json.loads(metadata["about"])


def named_variables(
    groups: Mapping[str, Sequence[keras.Variable]],
) -> dict[str, keras.Variable]:
    """Variables by group, place and path.

    Args:
        groups: such as `{"model": model.variables}`. `model.variables` has the states
            of seed generators, which `model.weights` and `.keras` files leave out.

    Returns:
        Variables by names such as `"model/12 stage_0_block_0/..."`.
    """
    return {
        f"{group}/{index} {variable.path}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def _value(value: np.ndarray | keras.Variable) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    # Older Keras gives torch's bfloat16 as float32, which holds the same numbers.
    return to_numpy(value.value).astype(_dtype(value), copy=False)


def _dtype(value: np.ndarray | keras.Variable) -> np.dtype:
    import ml_dtypes  # noqa: F401 - teaches NumPy the name bfloat16

    if isinstance(value, np.ndarray):
        return value.dtype
    return np.dtype(keras.backend.standardize_dtype(value.dtype))


def assign_variables(
    groups: Mapping[str, Sequence[keras.Variable]], arrays: Mapping[str, np.ndarray]
) -> None:
    """Give variables the values that were written of `named_variables`, all or none.

    They are found by group and place, because Keras counts names up within a process,
    and checked by shape and dtype.

    Raises:
        CheckpointError: if an array or a variable is left over, or one does not fit.
    """
    found: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    for name, value in arrays.items():
        key = name.partition(" ")[0]
        if key.partition("/")[0] in groups:
            found[key], names[key] = value, name
    wanted = {
        f"{group}/{index}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }
    amiss = [f"{names[key]}: no such variable" for key in found if key not in wanted]
    for key, variable in wanted.items():
        if key not in found:
            amiss.append(f"{key} {variable.path}: missing")
            continue
        value = found[key]
        dtype = _dtype(variable)
        if value.shape != tuple(variable.shape) or value.dtype != dtype:
            amiss.append(
                f"{names[key]}: {value.dtype} {value.shape}, not {dtype} "
                f"{tuple(variable.shape)} of {variable.path}"
            )
    if amiss:
        shown = "; ".join(amiss[:8]) + ("; ..." if len(amiss) > 8 else "")
        raise CheckpointError(
            "Expected the checkpoint of this very model and optimizer. "
            f"Received: {len(amiss)} that do not fit: {shown}"
        )
    for key, variable in wanted.items():
        variable.assign(found[key])


def callback_state(
    callback: keras.callbacks.Callback,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a callback remembers, such as `wait` and `best` of `EarlyStopping`.

    A callback that has `get_state()` (a dictionary of what JSON can hold) and
    `set_state(state)` is asked. Of others the attributes that are numbers, texts,
    lists of such, arrays and lists of arrays are taken.

    Returns:
        What JSON can hold, by attribute, and arrays by attribute (or attribute and
        place in a list).
    """
    if hasattr(callback, "get_state"):
        return {"state": callback.get_state()}, {}  # pyright: ignore[reportAttributeAccessIssue]
    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in vars(callback).items():
        if name in _NO_MEMORY:
            continue
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, _SCALARS) or _is_list_of(value, _SCALARS):
            plain[name] = value
        elif isinstance(value, np.ndarray):
            arrays[name] = value
        elif _is_list_of(value, (np.ndarray,)):
            plain[f"{name}[]"] = len(value)
            arrays |= {f"{name}[{index}]": each for index, each in enumerate(value)}
    return {"attributes": plain}, arrays


def restore_callback(
    callback: keras.callbacks.Callback,
    state: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Give a callback what `callback_state` found."""
    if "state" in state:
        callback.set_state(state["state"])  # pyright: ignore[reportAttributeAccessIssue]
        return
    for name, value in state["attributes"].items():
        if name.endswith("[]"):
            name = name.removesuffix("[]")
            value = [arrays[f"{name}[{index}]"] for index in range(value)]
        setattr(callback, name, value)
    for name, value in arrays.items():
        if not name.endswith("]"):
            setattr(callback, name, value)


def _is_list_of(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, list) and all(isinstance(each, kinds) for each in value)
