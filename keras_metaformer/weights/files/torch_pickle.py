"""Reads the files of `torch.save` without PyTorch, and without running them.

A pickle is a program for a small stack machine, and Python's unpickler runs it:
it imports what the program names and calls it. `TensorUnpickler` below is a machine
of its own. It knows only the instructions that `torch.save` writes, and only the
names in `_KNOWN_NAMES`; nothing is ever imported, called or set by name.

`pickle.Unpickler` with a `find_class` of its own would keep the names out, but it
also believes the sizes in a file: it allocates what BINBYTES8 asks for, grows its
memo to whatever index LONG_BINPUT names, and hashes nested tuples until the C stack
ends. Here every size is checked against the bytes that are there, dictionaries are
lists of pairs, which are never hashed, and the work is bounded.

A tensor is at first only a note of its storage, offset, shape and strides. Those
that are asked for become arrays later, as views of the mapped file, so that an
optimizer's state costs nothing.

Two layouts exist:

* zip (`torch.save` since 1.6): `NAME/data.pkl`, and each storage in a member
  `NAME/data/KEY`, uncompressed.
* legacy: five pickles one after the other (a magic number, a protocol number,
  facts on the system, the object, the keys of the storages), then each storage
  as its number of elements (int64) and its bytes.
"""

import enum
import math
import mmap
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from keras_metaformer.weights.files.errors import CheckpointError
from keras_metaformer.weights.files.zip_members import Member

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# A state dict takes about 40 instructions and 8 objects in 55 to 150 bytes per tensor.
_MAX_INSTRUCTIONS = 5_000_000
_MAX_NESTING = 1_000
_OBJECTS_IN_ANY_PICKLE = 10_000
_BYTES_PER_OBJECT = 4
_MAX_GLOBAL_LENGTH = 1_000
_MAX_DIMENSIONS = 32


class Inert(enum.Enum):
    """Stands for all that no weights are read from."""

    NAME = "a class or a function"
    OBJECT = "an object"


@dataclass(eq=False, slots=True)
class PickledDict:
    """A dictionary as its (key, value) pairs in the order of the file."""

    # Tuples, or lists of two where Python 2 wrote an OrderedDict.
    pairs: list = field(default_factory=list)

    def items(self) -> list[tuple[object, object]]:
        """The pairs.

        Raises:
            CheckpointError: if one of them is no pair.
        """
        for pair in self.pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise CheckpointError("a dictionary in the pickle has an odd entry")
        return [(key, value) for key, value in self.pairs]

    def get(self, key: str) -> object:
        """The last value under a text key, or None."""
        for name, value in reversed(self.items()):
            if isinstance(name, str) and name == key:
                return value
        return None


@dataclass(frozen=True, slots=True)
class StorageType:
    """The element type a storage is declared with."""

    dtype: str


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Elements `start` to `start + size` of the stored run of numbers named `key`."""

    key: str
    dtype: np.dtype
    start: int
    size: int


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Builder:
    """A function of this module that a pickle may have called."""

    name: str
    build: Callable[[tuple], object]


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0


def _build_dict(arguments: tuple) -> PickledDict:
    # Python 3 fills the dictionary afterwards, Python 2 hands over its pairs. The
    # list is shared, not copied, or a short pickle could copy a long one often.
    if len(arguments) == 1 and isinstance(arguments[0], list):
        return PickledDict(arguments[0])
    if arguments in ((), (Inert.NAME,)):  # defaultdict(dict)
        return PickledDict()
    raise CheckpointError("a dictionary is made from unexpected arguments")


def _build_size(arguments: tuple) -> tuple:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise CheckpointError("torch.Size is made from unexpected arguments")
    return arguments[0]


def _build_tensor(arguments: tuple) -> Tensor:
    if not 4 <= len(arguments) <= 7:
        raise CheckpointError(
            f"a tensor is made from {len(arguments)} arguments; expected 4 to 7"
        )
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage):
        raise CheckpointError("a tensor is made from something that is no storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise CheckpointError("the shape or the strides of a tensor are no tuple")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        raise CheckpointError(
            f"a tensor has {len(shape)} dimensions and {len(strides)} strides; "
            f"expected as many of both, and at most {_MAX_DIMENSIONS}"
        )
    if not all(_is_size(value) for value in (offset, *shape, *strides)):
        raise CheckpointError(
            "the offset, shape and strides of a tensor must be integers from 0 up"
        )
    return Tensor(storage, offset, shape, strides)


def _build_parameter(arguments: tuple) -> Tensor:
    # (data, requires_grad, hooks), and for some the attributes of the parameter.
    if not 3 <= len(arguments) <= 4 or not isinstance(arguments[0], Tensor):
        raise CheckpointError("a parameter is made from unexpected arguments")
    return arguments[0]


_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_DICT = Builder("OrderedDict", _build_dict)
# Found beside the weights in training checkpoints: arguments, random states,
# losses. They are read past; nothing is made of them.
_INERT_NAMES = {
    "argparse": "Namespace",
    "_codecs": "encode",
    "collections": "Counter",
    "builtins": "bool bytearray complex dict float frozenset int list set slice str "
    "tuple",
    "numpy": "dtype ndarray bool_ float16 float32 float64 int32 int64",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "pathlib": "PosixPath PurePosixPath WindowsPath PureWindowsPath",
    "torch": "device float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 "
    "bool",
    "torch.storage": "TypedStorage _TypedStorage",
}
_KNOWN_NAMES: dict[tuple[str, str], Inert | StorageType | Builder] = {
    **{
        (module, name): Inert.NAME
        for module, names in _INERT_NAMES.items()
        for name in names.split()
    },
    **{("torch", name): StorageType(t) for name, t in _STORAGE_DTYPES.items()},
    ("torch.storage", "UntypedStorage"): StorageType("uint8"),
    ("collections", "OrderedDict"): _DICT,
    ("collections", "defaultdict"): _DICT,
    ("torch", "Size"): Builder("Size", _build_size),
    ("torch._utils", "_rebuild_tensor"): Builder("tensor", _build_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Builder("tensor", _build_tensor),
    ("torch._utils", "_rebuild_parameter"): Builder("parameter", _build_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Builder(
        "parameter", _build_parameter
    ),
}


def _known_name(module: object, name: object) -> Inert | StorageType | Builder:
    """Looks up what a pickle may name; nothing is imported."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise CheckpointError("the pickle names something that is not a text")
    # Python 2's name of the module.
    module = "builtins" if module == "__builtin__" else module
    known = _KNOWN_NAMES.get((module, name))
    if known is None:
        asked_for = ascii(f"{module}.{name}")[1:-1][:160]
        raise CheckpointError(
            f"it asks for {asked_for}, which a file of weights has no need of. "
            "Nothing was run. If you trust the file, load it with PyTorch and save "
            "its state_dict() alone"
        )
    return known


def numpy_dtype(name: str) -> np.dtype:
    """The little-endian type; bfloat16, which NumPy lacks, of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


class TensorUnpickler:
    """Reads one pickle of plain containers and tensors.

    Args:
        data: bytes that hold the pickle.
        start: where it begins.

    Attributes:
        position: where the next byte is read; after `load`, the pickle's end.
        storages: after `load`, the (dtype, number of elements) of each storage key.
    """

    def __init__(self, data: memoryview, start: int = 0):
        self.position = start
        self.storages: dict[str, tuple[np.dtype, int]] = {}
        self._data = data
        self._stack: list = []
        self._marks: list[int] = []
        self._memo: list = []
        self._objects_left = _OBJECTS_IN_ANY_PICKLE + len(data) // _BYTES_PER_OBJECT

    def load(self) -> object:
        """What the pickle describes.

        Raises:
            CheckpointError: if the pickle is cut or damaged, names anything that is
                not a container or a tensor, or is larger than weights need.
        """
        for _ in range(_MAX_INSTRUCTIONS):
            opcode = self._take(1)[0]
            if opcode == pickle.STOP[0]:
                if len(self._stack) != 1 or self._marks:
                    raise CheckpointError("the pickle ends in mid-air")
                return self._stack[0]
            instruction = _INSTRUCTIONS.get(opcode)
            if instruction is None:
                raise CheckpointError(
                    f"its pickle has the instruction {_opcode_name(opcode)}, which "
                    "torch.save does not write. Nothing was run"
                )
            instruction(self)
        raise CheckpointError(
            f"its pickle has more than {_MAX_INSTRUCTIONS} instructions"
        )

    # Reading

    def _take(self, size: int) -> memoryview:
        end = self.position + size
        if end > len(self._data):
            raise CheckpointError(
                f"the pickle is cut: {size} bytes are stated at byte "
                f"{self.position} of {len(self._data)}"
            )
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _take_number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self._take(size), "little", signed=signed)

    def _take_text(self, size: int, encoding: str = "utf-8") -> str:
        try:
            return str(self._take(size), encoding)
        except UnicodeDecodeError as error:
            raise CheckpointError("a text in the pickle is not valid UTF-8") from error

    def _take_line(self) -> str:
        rest = bytes(self._data[self.position : self.position + _MAX_GLOBAL_LENGTH])
        length = rest.find(b"\n")
        if length < 0:
            raise CheckpointError("a name in the pickle does not end")
        line = self._take_text(length)
        self.position += 1
        return line

    # The stack

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _push_new(self, value: object) -> None:
        self._count_objects(1)
        self._stack.append(value)

    def _count_objects(self, count: int) -> None:
        """Counts objects made or looked at: a small file must not cause much work."""
        self._objects_left -= count
        if self._objects_left < 0:
            raise CheckpointError("its pickle makes more objects than its size allows")

    def _pop(self) -> object:
        self._require(1)
        return self._stack.pop()

    def _require(self, count: int) -> None:
        above_mark = len(self._stack) - (self._marks[-1] if self._marks else 0)
        if above_mark < count:
            raise CheckpointError("the pickle takes more values than it has made")

    def _pop_to_mark(self) -> list:
        if not self._marks:
            raise CheckpointError("the pickle closes what it has not opened")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, expected: type) -> object:
        self._require(1)
        if not isinstance(self._stack[-1], expected):
            raise CheckpointError("the pickle adds to something of the wrong kind")
        return self._stack[-1]

    # Instructions

    def _protocol(self) -> None:
        version = self._take_number(1)
        if not 2 <= version <= 5:
            raise CheckpointError(f"pickle protocol {version}; expected 2 to 5")

    def _mark(self) -> None:
        if len(self._marks) >= _MAX_NESTING:
            raise CheckpointError(f"its pickle is nested more than {_MAX_NESTING} deep")
        self._marks.append(len(self._stack))

    def _binary_float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _bytes(self, size_of_size: int) -> None:
        # The weights are in the storages, never in byte strings: skipped.
        self._take(self._take_number(size_of_size))
        self._push(Inert.OBJECT)

    def _tuple(self, count: int) -> None:
        self._require(count)
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._push_new(values)

    def _append(self, values: list) -> None:
        target = self._top(list)
        assert isinstance(target, list)
        target.extend(values)

    def _set_items(self, values: list) -> None:
        target = self._top(PickledDict)
        assert isinstance(target, PickledDict)
        if len(values) % 2:
            raise CheckpointError("a dictionary in the pickle has a key too many")
        self._count_objects(len(values) // 2)
        target.pairs.extend(zip(values[::2], values[1::2], strict=True))

    def _set_item(self) -> None:
        self._require(3)
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _memoize(self) -> None:
        self._put(len(self._memo))

    def _put(self, index: int) -> None:
        self._require(1)
        # Picklers number from 0, that of Python 2 from 1, without gaps.
        if index > len(self._memo) + 1:
            raise CheckpointError(f"the pickle's memo jumps to number {index}")
        while len(self._memo) <= index:
            self._memo.append(self._stack[-1])
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index >= len(self._memo):
            raise CheckpointError(f"the pickle's memo has no number {index}")
        self._push(self._memo[index])

    def _global(self) -> None:
        self._push(_known_name(self._take_line(), self._take_line()))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        self._push(_known_name(module, name))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(arguments, tuple):
            raise CheckpointError("the pickle calls something without a tuple")
        if function is Inert.NAME:
            self._push(Inert.OBJECT)
        elif isinstance(function, Builder):
            self._push_new(function.build(arguments))
        else:
            raise CheckpointError(
                f"the pickle calls a value of type {type(function).__name__}. "
                "Nothing was run"
            )

    def _new_object(self) -> None:
        _, kind = self._pop(), self._pop()
        if kind is not Inert.NAME:
            raise CheckpointError(
                f"the pickle makes an object of a value of type {type(kind).__name__}. "
                "Nothing was run"
            )
        self._push(Inert.OBJECT)

    def _build(self) -> None:
        # The attributes of an object, such as `_metadata` of a state dict, hold no
        # weights. They are dropped, not set; a file that reaches for Python's own
        # attributes is refused because it means harm.
        state = self._pop()
        target = self._pop()
        if target is not Inert.OBJECT and not isinstance(target, PickledDict):
            raise CheckpointError(
                "the pickle sets attributes of a value of type "
                f"{type(target).__name__}. Nothing was run"
            )
        # (attributes, slots) where a class has slots.
        for part in state if isinstance(state, tuple) and len(state) == 2 else [state]:
            if not isinstance(part, PickledDict):
                continue
            self._count_objects(len(part.pairs))
            for name, _ in part.items():
                if not isinstance(name, str) or name.startswith("__"):
                    raise CheckpointError(
                        "the pickle sets an attribute that is no ordinary one. "
                        "Nothing was run"
                    )
        self._push(target)

    def _persistent_id(self) -> None:
        self._push_new(self._storage(self._pop()))

    def _storage(self, identifier: object) -> Storage:
        """Check ("storage", type, key, device, elements), legacy with a view."""
        if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
            raise CheckpointError("a persistent id is no storage of five or six parts")
        tag, kind, key, device, elements = identifier[:5]
        view = identifier[5] if len(identifier) == 6 else None
        if (
            not isinstance(tag, str)
            or tag != "storage"
            or not isinstance(kind, StorageType)
            or not isinstance(device, str)
            or not _is_size(elements)
        ):
            raise CheckpointError(
                'a persistent id is not ("storage", type, key, device, elements)'
            )
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key):
            raise CheckpointError(
                "the storage key "
                f"{ascii(key)[:80] if isinstance(key, str) else type(key).__name__} "
                "is not a plain name"
            )
        dtype = numpy_dtype(kind.dtype)
        if self.storages.setdefault(key, (dtype, elements)) != (dtype, elements):
            raise CheckpointError(
                f"the storage {key!r} is named with two types or two sizes"
            )
        if view is None:
            return Storage(key, dtype, 0, elements)
        if not isinstance(view, tuple) or len(view) != 3:
            raise CheckpointError(f"the view of the storage {key!r} has no three parts")
        _, start, size = view
        if not (_is_size(start) and _is_size(size) and start + size <= elements):
            raise CheckpointError(
                f"a view reaches beyond the end of the storage {key!r}"
            )
        return Storage(key, dtype, start, size)


_Instruction = Callable[[TensorUnpickler], None]


# The instructions that Python's picklers write for such data, protocols 2 to 5.
_INSTRUCTIONS: dict[int, _Instruction] = {
    opcode[0]: instruction
    for opcode, instruction in {
        pickle.PROTO: TensorUnpickler._protocol,
        # A frame only announces how many bytes follow.
        pickle.FRAME: lambda u: u._take(8),
        pickle.MARK: TensorUnpickler._mark,
        pickle.POP: lambda u: u._pop(),
        pickle.POP_MARK: lambda u: u._pop_to_mark(),
        pickle.NONE: lambda u: u._push(None),
        pickle.NEWTRUE: lambda u: u._push(True),
        pickle.NEWFALSE: lambda u: u._push(False),
        pickle.BININT: lambda u: u._push(u._take_number(4, signed=True)),
        pickle.BININT1: lambda u: u._push(u._take_number(1)),
        pickle.BININT2: lambda u: u._push(u._take_number(2)),
        pickle.LONG1: lambda u: u._push(u._take_number(u._take_number(1), signed=True)),
        pickle.BINFLOAT: TensorUnpickler._binary_float,
        pickle.BINUNICODE: lambda u: u._push(u._take_text(u._take_number(4))),
        pickle.SHORT_BINUNICODE: lambda u: u._push(u._take_text(u._take_number(1))),
        pickle.BINUNICODE8: lambda u: u._push(u._take_text(u._take_number(8))),
        # Python 2's byte strings, which were its texts.
        pickle.BINSTRING: lambda u: u._push(u._take_text(u._take_number(4), "latin-1")),
        pickle.SHORT_BINSTRING: lambda u: u._push(
            u._take_text(u._take_number(1), "latin-1")
        ),
        pickle.BINBYTES: lambda u: u._bytes(4),
        pickle.SHORT_BINBYTES: lambda u: u._bytes(1),
        pickle.BINBYTES8: lambda u: u._bytes(8),
        pickle.BYTEARRAY8: lambda u: u._bytes(8),
        pickle.EMPTY_TUPLE: lambda u: u._push(()),
        pickle.TUPLE1: lambda u: u._tuple(1),
        pickle.TUPLE2: lambda u: u._tuple(2),
        pickle.TUPLE3: lambda u: u._tuple(3),
        pickle.TUPLE: lambda u: u._push_new(tuple(u._pop_to_mark())),
        pickle.EMPTY_LIST: lambda u: u._push_new([]),
        pickle.APPEND: lambda u: u._append([u._pop()]),
        pickle.APPENDS: lambda u: u._append(u._pop_to_mark()),
        pickle.EMPTY_DICT: lambda u: u._push_new(PickledDict()),
        pickle.SETITEM: TensorUnpickler._set_item,
        pickle.SETITEMS: lambda u: u._set_items(u._pop_to_mark()),
        # Sets are lists here: what is in them is not used, and not hashed.
        pickle.EMPTY_SET: lambda u: u._push_new([]),
        pickle.ADDITEMS: lambda u: u._append(u._pop_to_mark()),
        pickle.FROZENSET: lambda u: u._push_new(u._pop_to_mark()),
        pickle.BINPUT: lambda u: u._put(u._take_number(1)),
        pickle.LONG_BINPUT: lambda u: u._put(u._take_number(4)),
        pickle.MEMOIZE: TensorUnpickler._memoize,
        pickle.BINGET: lambda u: u._get(u._take_number(1)),
        pickle.LONG_BINGET: lambda u: u._get(u._take_number(4)),
        pickle.GLOBAL: TensorUnpickler._global,
        pickle.STACK_GLOBAL: TensorUnpickler._stack_global,
        pickle.REDUCE: TensorUnpickler._reduce,
        pickle.NEWOBJ: TensorUnpickler._new_object,
        pickle.BUILD: TensorUnpickler._build,
        pickle.BINPERSID: TensorUnpickler._persistent_id,
    }.items()
}


def _opcode_name(opcode: int) -> str:
    import pickletools

    names = {known.code: known.name for known in pickletools.opcodes}
    return names.get(chr(opcode), f"0x{opcode:02x}")


@dataclass(frozen=True)
class TorchFile:
    """What a file of `torch.save` holds, with its tensors still on disk.

    Attributes:
        contents: containers, numbers, texts, `Tensor` and `Inert`.
    """

    contents: object
    _mapped: mmap.mmap
    _starts: Mapping[str, int]

    def array(self, tensor: Tensor) -> np.ndarray:
        """Maps a tensor.

        Args:
            tensor: a tensor from `contents`.

        Returns:
            A read-only view of the file with the tensor's shape, strides and dtype.

        Raises:
            CheckpointError: if the tensor reaches beyond its storage, or is spread
                (with strides of 0) to more bytes than the whole file has.
        """
        storage = tensor.storage
        item_size = storage.dtype.itemsize
        # Lengths of 0 count as 1, so that the others are limited too.
        spread = math.prod(max(length, 1) for length in tensor.shape) * item_size
        if spread > max(len(self._mapped), item_size):
            raise CheckpointError(
                f"a tensor of shape {_brief(tensor.shape)} takes "
                f"{_brief(spread)} bytes, more than the whole file "
                f"({len(self._mapped)} bytes)"
            )
        if 0 in tensor.shape:
            empty = np.empty(tensor.shape, storage.dtype)
            empty.flags.writeable = False
            return empty
        # The stride of a dimension of length 1 is never used and may be anything.
        strides = [
            stride if length > 1 else 0
            for length, stride in zip(tensor.shape, tensor.strides, strict=True)
        ]
        last = tensor.offset + sum(
            (length - 1) * stride
            for length, stride in zip(tensor.shape, strides, strict=True)
        )
        if last >= storage.size:
            raise CheckpointError(
                f"a tensor of shape {_brief(tensor.shape)} and strides "
                f"{_brief(tensor.strides)} reaches beyond the end of its storage "
                f"{storage.key!r} of {storage.size} elements"
            )
        start = self._starts[storage.key]
        return np.ndarray(
            tensor.shape,
            storage.dtype,
            buffer=self._mapped,
            offset=start + (storage.start + tensor.offset) * item_size,
            strides=[stride * item_size for stride in strides],
        )


def _brief(value: int | tuple[int, ...]) -> str:
    # Not str() alone: Python refuses to write out integers of thousands of digits.
    if isinstance(value, tuple):
        return "(" + ", ".join(_brief(number) for number in value) + ")"
    return str(value) if value < 2**63 else "2**63 or more"


def read_zip(mapped: mmap.mmap, members: Mapping[str, Member]) -> TorchFile:
    """Read the zip layout.

    Args:
        mapped: the whole file.
        members: its members.

    Returns:
        The file's contents.

    Raises:
        CheckpointError: if the file is damaged or not one of weights.
    """
    pickles = [
        name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise CheckpointError(
            f"the archive has {len(pickles)} members FOLDER/data.pkl; expected one"
        )
    root = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{root}code/") for name in members):
        raise CheckpointError(
            "it is a TorchScript program, not a file of weights. Load it with "
            "torch.jit.load and save its state_dict() with torch.save"
        )
    byte_order = members.get(f"{root}byteorder")
    if byte_order is not None and _stored_bytes(mapped, byte_order) != b"little":
        raise CheckpointError(
            "its numbers are not little-endian, the one byte order that is read"
        )
    unpickler = TensorUnpickler(_stored_bytes(mapped, members[pickles[0]]))
    contents = unpickler.load()
    starts = {}
    for key, (dtype, elements) in unpickler.storages.items():
        member = members.get(f"{root}data/{key}")
        if member is None:
            raise CheckpointError(f"the archive lacks its storage {key!r}")
        size = len(_stored_bytes(mapped, member))
        if elements * dtype.itemsize > size:
            raise CheckpointError(
                f"the storage {key!r} states {_brief(elements)} elements of {dtype}, "
                f"but has {size} bytes"
            )
        starts[key] = member.start
    return TorchFile(contents, mapped, starts)


def _stored_bytes(mapped: mmap.mmap, member: Member) -> memoryview:
    if member.is_compressed:
        raise CheckpointError(
            "its members are compressed, which torch.save never does. Unpack the "
            "archive and pack it again uncompressed"
        )
    return memoryview(mapped)[member.start : member.start + member.stored]


def read_legacy(mapped: mmap.mmap) -> TorchFile:
    """Read the layout that `torch.save` wrote before PyTorch 1.6.

    Args:
        mapped: the whole file.

    Returns:
        The file's contents.

    Raises:
        CheckpointError: if the file is damaged or not one of weights.
    """
    position = 0
    pickles: list[object] = []
    unpicklers: list[TensorUnpickler] = []
    for _ in range(5):
        unpickler = TensorUnpickler(memoryview(mapped), position)
        pickles.append(unpickler.load())
        unpicklers.append(unpickler)
        position = unpickler.position
        if pickles[0] != MAGIC_NUMBER:
            raise CheckpointError(
                "it is a pickle, but not one of torch.save: the magic number is missing"
            )
    _, protocol, system, contents, keys = pickles
    storages = unpicklers[3].storages
    if protocol != LEGACY_PROTOCOL:
        raise CheckpointError(f"its protocol is not {LEGACY_PROTOCOL}")
    if not isinstance(system, PickledDict) or system.get("little_endian") is not True:
        raise CheckpointError(
            "its numbers are not little-endian, the one byte order that is read"
        )
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError("the list of its storages is no list of names")
    if sorted(keys) != sorted(storages):
        raise CheckpointError(
            f"the {len(keys)} storages it lists are not the {len(storages)} that its "
            "tensors use"
        )
    starts = {}
    for key in keys:
        dtype, elements = storages[key]
        starts[key] = position + 8
        end = starts[key] + elements * dtype.itemsize
        if end > len(mapped):
            raise CheckpointError(
                f"the file is cut: the storage {key!r} should end at byte "
                f"{_brief(end)}, the file ends at {len(mapped)}"
            )
        stated = int.from_bytes(mapped[position : position + 8], "little", signed=True)
        if stated != elements:
            raise CheckpointError(
                f"the storage {key!r} has {stated} elements, but its tensors state "
                f"{elements}"
            )
        position = end
    return TorchFile(contents, mapped, starts)
