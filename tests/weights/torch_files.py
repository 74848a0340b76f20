"""Writes the files of `torch.save`, both layouts, without PyTorch, and reads them."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from keras_metaformer.weights.files.readers import read_checkpoint

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGE_NAMES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Global:
    """Pickled as the name of something in a module that need not exist."""

    def __init__(self, module: str, name: str):
        self.module = module
        self.name = name

    def __call__(self, *arguments):
        raise AssertionError("only ever pickled")


class Call:
    """Pickled as the call of a global, with items and attributes set afterwards."""

    def __init__(self, function: Global, arguments: tuple, state=None):
        self.function = function
        self.arguments = arguments
        self.state = state

    def __reduce__(self):
        return self.function, self.arguments, self.state


@dataclass(eq=False)
class Storage:
    """A run of numbers; `elements` and `key` may state something untrue.

    `view` is the last part of a persistent id in the legacy layout: (key of the
    view, offset, size).
    """

    values: np.ndarray
    elements: int | None = None
    key: str | None = None
    view: tuple | None = None
    identifier: object = None


class Tensor:
    """Pickled as PyTorch pickles a tensor; by default a contiguous one.

    The keywords put in other sizes than those of `values`; `storage` is what tensors
    that share memory have in common.
    """

    def __init__(
        self,
        values: Any = (),
        *,
        storage: Storage | None = None,
        offset: Any = 0,
        shape: Any = None,
        strides: Any = None,
        v: int = 2,
    ):
        if storage is None:
            storage = Storage(np.ascontiguousarray(values).reshape(-1))
        self.storage = storage
        self.offset = offset
        self.shape = np.shape(values) if shape is None else shape
        self.strides = strides
        if strides is None:
            array = np.empty(self.shape, np.int8)
            self.strides = array.strides
        self.version = v

    def __reduce__(self):
        arguments = (self.storage, self.offset, self.shape, self.strides)
        if self.version == 1:
            return Global("torch._utils", "_rebuild_tensor"), arguments
        return (
            Global("torch._utils", "_rebuild_tensor_v2"),
            (*arguments, False, OrderedDict()),
        )


def parameter(values) -> Call:
    return Call(
        Global("torch._utils", "_rebuild_parameter"),
        (Tensor(values), True, OrderedDict()),
    )


# The pickler in C cannot write the name of something that is not there.
_PythonPickler: Any = vars(pickle)["_Pickler"]


class _Pickler(_PythonPickler):
    dispatch: ClassVar = dict(_PythonPickler.dispatch)

    def __init__(self, file, protocol: int, legacy: bool):
        super().__init__(file, protocol)
        self._legacy = legacy
        self._globals: dict[tuple[str, str], Global] = {}
        self.storages: dict[str, Storage] = {}

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        if obj.identifier is not None:
            return obj.identifier
        known = [key for key, storage in self.storages.items() if storage is obj]
        key = obj.key or (known[0] if known else str(len(self.storages)))
        self.storages.setdefault(key, obj)
        kind = STORAGE_NAMES[str(obj.values.dtype)]
        count = obj.values.size if obj.elements is None else obj.elements
        identifier = ("storage", self._name("torch", kind), key, "cpu", count)
        return (*identifier, obj.view) if self._legacy else identifier

    def _name(self, module: str, name: str) -> Global:
        return self._globals.setdefault((module, name), Global(module, name))

    def _save_global(self, obj: Global) -> None:
        obj = self._name(obj.module, obj.name)
        if id(obj) in self.memo:
            self.write(self.get(self.memo[id(obj)][0]))
            return
        if self.proto >= 4:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        self.memoize(obj)

    dispatch[Global] = _save_global


def pickled(
    contents: object, protocol: int = 2, legacy: bool = False
) -> tuple[bytes, dict[str, Storage]]:
    """Returns the pickle and the storages it refers to, by key."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, protocol, legacy)
    pickler.dump(contents)
    return buffer.getvalue(), pickler.storages


def zip_bytes(
    contents: object = None,
    *,
    protocol: int = 2,
    data: bytes | None = None,
    root: str = "archive",
    byteorder: bytes = b"little",
    extra_members: tuple[tuple[str, bytes], ...] = (),
    compression: int = zipfile.ZIP_STORED,
) -> bytes:
    """The zip layout; `data` puts another pickle in place of that of `contents`."""
    own_data, storages = pickled(contents, protocol)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:

        def add(name: str, content: bytes) -> None:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            # PyTorch pads the header, so that every member begins at a multiple of 64.
            start = buffer.tell() + 30 + len(name) + 4
            padding = -start % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(info, content)

        add(f"{root}/data.pkl", own_data if data is None else data)
        add(f"{root}/byteorder", byteorder)
        for key, storage in storages.items():
            add(f"{root}/data/{key}", storage.values.tobytes())
        add(f"{root}/version", b"3\n")
        for name, content in extra_members:
            add(name, content)
    return buffer.getvalue()


def legacy_bytes(
    contents: object = None,
    *,
    protocol: int = 2,
    data: bytes | None = None,
    magic: int = MAGIC_NUMBER,
    version: int = 1001,
    little_endian: bool = True,
) -> bytes:
    """The legacy layout; `data` puts another pickle in place of that of `contents`."""
    own_data, storages = pickled(contents, protocol, legacy=True)
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {
        "protocol_version": version,
        "little_endian": little_endian,
        "type_sizes": sizes,
    }
    parts = [pickle.dumps(value, protocol) for value in (magic, version, system)]
    parts.append(own_data if data is None else data)
    parts.append(pickle.dumps(sorted(storages), protocol))
    for key in sorted(storages):
        values = storages[key].values
        parts += [struct.pack("<q", values.size), values.tobytes()]
    return b"".join(parts)


def write(path: Path, contents: bytes) -> Path:
    path.write_bytes(contents)
    return path


def read(folder: Path, contents: bytes, **options: Any) -> dict[str, np.ndarray]:
    """What `read_checkpoint` finds in a file with these contents."""
    return read_checkpoint(write(folder / "checkpoint.pth", contents), **options)


def floats(*values: float) -> np.ndarray:
    return np.array(values, "float32")


def sample_arrays() -> dict[str, np.ndarray]:
    """One array of every dtype, ranks 0 to 4, and one that is empty."""
    random = np.random.default_rng(7)
    arrays = {
        f"of_{dtype}": random.integers(0, 2, (3, 5)).astype(
            ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        )
        for dtype in STORAGE_NAMES
    }
    arrays["stem.conv.weight"] = random.normal(size=(4, 3, 7, 7)).astype("float32")
    arrays["head.bias"] = random.normal(size=1000).astype("float32")
    arrays["scale"] = random.normal(size=1).astype("float32")
    arrays["num_batches_tracked"] = np.array(12345678901)
    arrays["empty"] = np.zeros((0, 4), "float32")
    return arrays


def tensors(arrays: dict[str, np.ndarray]) -> OrderedDict:
    return OrderedDict((name, Tensor(array)) for name, array in arrays.items())
