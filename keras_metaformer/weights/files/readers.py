"""Reads checkpoint files into NumPy arrays, without PyTorch.

`read_checkpoint` looks at the first bytes of a file, never at its name. Arrays are
mapped: their bytes stay in the file until they are used.
"""

import math
import mmap
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from keras_metaformer.weights.files import torch_pickle
from keras_metaformer.weights.files.errors import CheckpointError
from keras_metaformer.weights.files.torch_pickle import PickledDict, Tensor, TorchFile
from keras_metaformer.weights.files.zip_members import Member, read_members, unpack_into

# Entries of a training checkpoint that hold a state dict, the first found is taken.
_PLAIN_ENTRIES = ("state_dict", "model", "model_state_dict", "net", "module")
_EMA_ENTRIES = ("state_dict_ema", "model_ema")
# Put before every name by DataParallel and by torch.compile.
_PREFIXES = ("module.", "_orig_mod.")

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_NPY_HEADER = re.compile(
    rb"\{ *'descr': *'(?P<dtype>[<>|=]?(?:f[248]|i[1248]|u1|b1|V2))', *"
    rb"'fortran_order': *(?P<fortran>True|False), *"
    rb"'shape': *\((?P<shape>[0-9L, ]{0,500})\),? *\} *\n"
)
_NPY_HEADER_MAX = 4096
# A packed archive may unpack to 16 times its size: more than any weights do.
_MAX_EXPANSION = 16
_MAX_DIMENSIONS = 32
_Order = Literal["C", "F"]


def read_checkpoint(
    path: str | os.PathLike[str], *, prefer_ema: bool = True
) -> dict[str, np.ndarray]:
    """Read the weights in a checkpoint file.

    The kind of file is recognised by its content:

    * safetensors;
    * `.npz`, stored or deflated;
    * `.pth`, `.pt`, `.pth.tar` of `torch.save`, the zip and the legacy layout.
      PyTorch is not needed and nothing in the file is run: of the pickle inside,
      only containers and tensors are understood, and a file that names anything
      else is refused.

    In a training checkpoint the state dict is looked for under `"state_dict"`,
    `"model"`, `"model_state_dict"`, `"net"` and `"module"`; everything beside it
    (optimizer, epoch, arguments) is passed over and never read from disk. The
    prefixes `module.` and `_orig_mod.` are removed where every name has them.

    Example:

    ```python
    arrays = keras_metaformer.read_checkpoint("convformer_s18.pth")
    arrays["head.fc1.weight"].shape  # (2048, 512)
    ```

    Args:
        path: the file.
        prefer_ema: whether to take the exponential moving average of the weights
            (`"state_dict_ema"`, `"model_ema"`) where a training checkpoint holds
            both. It is what papers evaluate, and what timm loads.

    Returns:
        The arrays by name, in the order of the file. They are read-only views of
        the file (of unpacked memory for a deflated `.npz`), keep its dtype and
        strides, and may be unaligned. bfloat16 is `ml_dtypes.bfloat16`. The file
        must not be changed while they are in use.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if it is a directory.
        CheckpointError: if it is none of these kinds, holds no tensors, is damaged,
            or asks for anything but weights.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"Expected a checkpoint file, found a directory. Received: path={path}"
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no such checkpoint. Received: path={path}")
    if not path.is_file():
        raise CheckpointError(f"This is no regular file. Received: path={path}")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"This checkpoint is empty (0 bytes); fetch it again. Received: path={path}"
        )
    # The arrays keep the map open; it closes with the last of them.
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            return _strip_prefixes(_read(path, file, mapped, prefer_ema))
        except CheckpointError as error:
            raise CheckpointError(
                f"This checkpoint cannot be read: {error}. Received: path={path}"
            ) from error


def _read(
    path: Path, file: BinaryIO, mapped: mmap.mmap, prefer_ema: bool
) -> dict[str, np.ndarray]:
    """Tells the kinds of files apart by their first bytes."""
    start = mapped[:512]
    if start.startswith(b"PK\x03\x04"):
        members = read_members(mapped)
        if any(name.endswith("/data.pkl") for name in members):
            contents = torch_pickle.read_zip(mapped, members)
            return _torch_arrays(contents, prefer_ema)
        if "model.weights.h5" in members:
            raise CheckpointError(
                "it is a model saved by Keras. Load it with keras.saving.load_model, "
                "or its weights with model.load_weights"
            )
        return _read_npz(file, mapped, members)
    if re.match(rb"\x80[\x02-\x05]", start):
        return _torch_arrays(torch_pickle.read_legacy(mapped), prefer_ema)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= len(mapped) - 8:
        return _read_safetensors(path, mapped)
    raise CheckpointError(_describe_unknown(start))


def _describe_unknown(start: bytes) -> str:
    """Say what a file that is no checkpoint probably is."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return (
            "it is an HDF5 file, such as Keras' own .weights.h5. Load it with "
            "model.load_weights"
        )
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        return (
            "it is a Git LFS pointer, which stands for the real file. Fetch that with "
            "`git lfs pull`"
        )
    if re.match(rb"(?i)<(!doctype html|html|head|\?xml)", text):
        return (
            "it is a web page, not a checkpoint: the download was answered with an "
            "error or a login page. Fetch the file again"
        )
    if start.startswith(b"PK\x05\x06"):
        return "it is a zip archive with nothing in it"
    if start[257:262] == b"ustar":
        return "it is a tar archive; expected the file of torch.save. Unpack it first"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf")):
        return "it is a compressed file. Unpack it first"
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", start):
        return f"it is a text that begins {text[:60].decode('ascii')!r}"
    return (
        f"it is of an unknown kind and begins with the bytes {start[:8].hex(' ')}; "
        "expected a safetensors, .npz, .pth, .pt or .pth.tar file, complete"
    )


# PyTorch


def _torch_arrays(file: TorchFile, prefer_ema: bool) -> dict[str, np.ndarray]:
    tensors = _find_state_dict(file.contents, prefer_ema)
    return {name: file.array(tensor) for name, tensor in tensors.items()}


def _find_state_dict(contents: object, prefer_ema: bool) -> dict[str, Tensor]:
    """Find the tensors by name, in a state dict or one wrapped up to thrice."""
    first, second = _PLAIN_ENTRIES, _EMA_ENTRIES
    if prefer_ema:
        first, second = second, first
    for _ in range(4):
        if not isinstance(contents, PickledDict):
            break
        entries = {
            key: value for key, value in contents.items() if isinstance(key, str)
        }
        wrapped = next(
            (
                entries[name]
                for name in first + second
                if isinstance(entries.get(name), PickledDict)
            ),
            None,
        )
        if wrapped is None:
            return _tensors(contents)
        contents = wrapped
    raise CheckpointError("it holds no dictionary of tensors")


def _tensors(state_dict: PickledDict) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            continue
        if not isinstance(name, str) or name in tensors:
            raise CheckpointError(
                "its tensors have no names, or two share a name: "
                f"{ascii(name)[:80] if isinstance(name, str) else type(name).__name__}"
            )
        tensors[name] = value
    if not tensors:
        names = [key for key, _ in state_dict.items() if isinstance(key, str)]
        raise CheckpointError(
            f"it holds no tensors, only the entries {ascii(names[:8])[:300]}"
        )
    return tensors


def _strip_prefixes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove what wrappers of a model put before every name."""
    while True:
        # torch.optim.swa_utils counts its averaged models beside the weights.
        names = [name for name in arrays if name != "n_averaged"]
        prefix = next(
            (p for p in _PREFIXES if names and all(n.startswith(p) for n in names)),
            None,
        )
        if prefix is None:
            return arrays
        arrays = {name.removeprefix(prefix): arrays[name] for name in names}


# safetensors


def _read_safetensors(path: Path, mapped: mmap.mmap) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        # The library checks the header: sizes fit shapes, and the tensors follow
        # each other without gaps to the end of the file. It would copy them, so
        # only what it says of them is used.
        with safe_open(path, framework="numpy") as file:
            described = []
            for name in file.offset_keys():
                entry = file.get_slice(name)
                described.append((name, entry.get_dtype(), tuple(entry.get_shape())))
    except SafetensorError as error:
        raise CheckpointError(f"the safetensors file is damaged ({error})") from error
    arrays = {}
    position = 8 + int.from_bytes(mapped[:8], "little")
    for name, code, shape in described:
        if code not in _SAFETENSORS_DTYPES or len(shape) > _MAX_DIMENSIONS:
            raise CheckpointError(
                f"its tensor {name[:80]!r} is of type {code} with {len(shape)} "
                f"dimensions; expected one of {', '.join(_SAFETENSORS_DTYPES)} with at "
                f"most {_MAX_DIMENSIONS}"
            )
        dtype = torch_pickle.numpy_dtype(_SAFETENSORS_DTYPES[code])
        arrays[name] = _map_array(mapped, position, dtype, shape)
        position += arrays[name].nbytes
    if not arrays:
        raise CheckpointError("it holds no tensors")
    return arrays


def _map_array(
    mapped: mmap.mmap,
    start: int,
    dtype: np.dtype,
    shape: tuple[int, ...],
    order: _Order = "C",
) -> np.ndarray:
    """Maps a contiguous array after checking that it lies within the file."""
    # Lengths of 0 count as 1, so that the others are limited too.
    spread = math.prod(max(length, 1) for length in shape) * dtype.itemsize
    size = 0 if 0 in shape else spread
    if start + size > len(mapped) or spread > max(len(mapped), dtype.itemsize):
        raise CheckpointError(
            f"an array of {len(shape)} dimensions and type {dtype} does not fit into "
            "the file"
        )
    if size == 0:
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return empty
    return np.ndarray(shape, dtype, buffer=mapped, offset=start, order=order)


# NumPy


def _read_npz(
    file: BinaryIO, mapped: mmap.mmap, members: dict[str, Member]
) -> dict[str, np.ndarray]:
    if not members or not all(name.endswith(".npy") for name in members):
        raise CheckpointError(
            "it is a zip archive, but neither of torch.save (no FOLDER/data.pkl) nor "
            f"of numpy.savez; its members are {ascii(list(members)[:5])[:300]}"
        )
    unpacked = sum(member.size for member in members.values())
    if unpacked > _MAX_EXPANSION * len(mapped):
        raise CheckpointError(
            f"its {len(mapped)} bytes would unpack to {unpacked}, more than "
            f"{_MAX_EXPANSION} times as many"
        )
    return {
        name.removesuffix(".npy"): _read_npy(file, mapped, member)
        for name, member in members.items()
    }


def _read_npy(file: BinaryIO, mapped: mmap.mmap, member: Member) -> np.ndarray:
    if member.is_compressed:
        head = bytearray(min(member.size, _NPY_HEADER_MAX))
        unpack_into(file, member, memoryview(head), whole=False)
    else:
        end = min(member.start + member.size, member.start + _NPY_HEADER_MAX)
        head = mapped[member.start : end]
    dtype, shape, order, header_size = _parse_npy_header(bytes(head))
    size = math.prod(shape) * dtype.itemsize
    if header_size + size != member.size:
        raise CheckpointError(
            f"the array {member.info.filename[:80]!r} has {member.size} bytes; "
            "its header states another size"
        )
    if not member.is_compressed or size == 0:
        return _map_array(
            mapped, member.start + header_size if size else 0, dtype, shape, order
        )
    data = np.empty(member.size, np.uint8)
    unpack_into(file, member, data.data)
    data.flags.writeable = False
    return data[header_size:].view(dtype).reshape(shape, order=order)


def _parse_npy_header(
    head: bytes,
) -> tuple[np.dtype, tuple[int, ...], _Order, int]:
    """Read dtype, shape, order and size of the header in front of an array.

    NumPy evaluates this header as a Python literal; here it is matched against the
    one form NumPy writes, for plain numbers.
    """
    match_prefix = re.match(rb"\x93NUMPY([\x01-\x03])\x00", head)
    if match_prefix is None:
        raise CheckpointError("a member of the .npz archive is no array")
    length_format = struct.Struct("<H" if match_prefix[1] == b"\x01" else "<I")
    text_start = match_prefix.end() + length_format.size
    if len(head) < text_start:
        raise CheckpointError("an array in the .npz archive is cut")
    (text_size,) = length_format.unpack_from(head, match_prefix.end())
    text = head[text_start : text_start + text_size]
    match = _NPY_HEADER.fullmatch(text)
    if len(text) != text_size or match is None:
        raise CheckpointError(
            "an array in the .npz archive is not of plain numbers; its header is "
            f"{text[:120].decode('latin-1')!r}"
        )
    code = match["dtype"].decode()
    # NumPy saves bfloat16 as two bytes of no type, and no other type is like it.
    dtype = torch_pickle.numpy_dtype("bfloat16") if "V2" in code else np.dtype(code)
    lengths = re.findall(rb"[0-9]+", match["shape"])
    if len(lengths) > _MAX_DIMENSIONS or any(len(length) > 18 for length in lengths):
        raise CheckpointError("an array in the .npz archive has an impossible shape")
    order: _Order = "F" if match["fortran"] == b"True" else "C"
    shape = tuple(int(length) for length in lengths)
    return dtype, shape, order, text_start + text_size
