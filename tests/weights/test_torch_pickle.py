"""The pickles inside .pth files: read without PyTorch, and never run."""

import argparse
import copyreg
import io
import os
import pickle
import struct
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from keras_metaformer.weights.files.errors import CheckpointError
from tests.weights import torch_files
from tests.weights.torch_files import Call, Global, Storage, Tensor, floats, read

pytestmark = pytest.mark.backend_independent

LAYOUTS = [torch_files.zip_bytes, torch_files.legacy_bytes]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=["zip", "legacy"])


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


# What is read


@layouts
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_rank(tmp_path, layout, protocol):
    arrays = torch_files.sample_arrays()
    contents = layout(torch_files.tensors(arrays), protocol=protocol)
    read_arrays = read(tmp_path, contents)
    assert list(read_arrays) == list(arrays)
    for name, array in arrays.items():
        assert_same(read_arrays[name], array)
        assert not read_arrays[name].flags.writeable
    assert read_arrays["of_bfloat16"].dtype == ml_dtypes.bfloat16


@layouts
def test_strided_shared_and_expanded_tensors(tmp_path, layout):
    base = np.arange(24, dtype="float32")
    storage = Storage(base)
    state_dict = {
        "whole": Tensor(storage=storage, shape=(4, 6), strides=(6, 1)),
        "transposed": Tensor(storage=storage, shape=(6, 4), strides=(1, 6)),
        "part": Tensor(storage=storage, offset=7, shape=(2, 3), strides=(12, 2)),
        "expanded": Tensor(storage=storage, offset=5, shape=(3, 2), strides=(0, 1)),
        "scalar": Tensor(storage=storage, offset=23, shape=(), strides=()),
        # PyTorch leaves any stride where the length is 1.
        "one": Tensor(storage=storage, offset=3, shape=(1, 2), strides=(999, 1)),
        "old": Tensor(storage=storage, shape=(24,), strides=(1,), v=1),
    }
    arrays = read(tmp_path, layout(state_dict))
    grid = base.reshape(4, 6)
    expected = {
        "whole": grid,
        "transposed": grid.T,
        "part": np.stack([base[7:13:2], base[19:24:2]]),
        "expanded": np.broadcast_to(base[5:7], (3, 2)),
        "scalar": np.array(base[23]),
        "one": base[None, 3:5],
        "old": base,
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_parameters_and_their_states(tmp_path):
    data = Tensor(floats(1, 2))
    arguments = (data, True, OrderedDict(), {"note": "text"})
    with_state = Call(
        Global("torch._utils", "_rebuild_parameter_with_state"), arguments
    )
    state_dict = {"plain": torch_files.parameter([3.0, 4.0]), "state": with_state}
    arrays = read(tmp_path, torch_files.zip_bytes(state_dict))
    np.testing.assert_array_equal(arrays["plain"], [3, 4])
    np.testing.assert_array_equal(arrays["state"], [1, 2])


def test_views_of_storages_in_old_legacy_files(tmp_path):
    values = np.arange(10, dtype="float32")
    view = Storage(values, key="root", view=("view", 4, 3))
    tensor = Tensor(storage=view, offset=1, shape=(2,), strides=(1,))
    arrays = read(tmp_path, torch_files.legacy_bytes({"w": tensor}))
    np.testing.assert_array_equal(arrays["w"], [5, 6])
    beyond = Tensor(storage=view, offset=2, shape=(2,), strides=(1,))
    with pytest.raises(CheckpointError, match="reaches beyond the end"):
        read(tmp_path, torch_files.legacy_bytes({"w": beyond}))


def test_a_python_2_dictionary_and_texts(tmp_path):
    # Python 2 hands an OrderedDict its pairs, numbers its memo from 1, and writes
    # texts as byte strings.
    data, _ = torch_files.pickled({"unused": Tensor(floats(1, 2, 3))})
    assert data.startswith(b"\x80\x02}q\x00X\x06\x00\x00\x00unusedq\x01")
    tensor = data[data.index(b"ctorch._utils") : data.rindex(b"s.")]
    pairs = b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02]q\x03(U\x01wq\x04"
    contents = torch_files.zip_bytes(
        {"unused": Tensor(floats(1, 2, 3))},
        data=pairs + tensor + b"ea\x85q\x63Rq\x64.",
    )
    # `e` adds to the inner list, `a` that one to the outer.
    with pytest.raises(CheckpointError, match="memo jumps to number 99"):
        read(tmp_path, contents)
    contents = contents.replace(b"\x85q\x63Rq\x64.", b"\x85q\x05Rq\x06.")
    np.testing.assert_array_equal(read(tmp_path, contents)["w"], [1, 2, 3])


@layouts
def test_what_lies_beside_the_weights_is_passed_over(tmp_path, layout):
    weights = {"head.weight": floats([1, 2])}
    extras = {
        "epoch": 300,
        "metric": np.float64(81.9),
        "best": [1.5, None, True, -7, 2**70, -(2**40), "text", b"bytes"],
        "sets": {1, 2},
        "args": argparse.Namespace(lr=0.1, data=Path("images"), opt={"a": (1, 2, 3)}),
        "counter": Counter(a=2),
        "history": defaultdict(dict, {1: {}}),
        "random_state": np.random.default_rng(0).bit_generator.state,
        "array": np.arange(5),
        "size": Call(Global("torch", "Size"), ((2, 3),)),
        "dtype": Global("torch", "float32"),
        "device": Call(Global("torch", "device"), ("cuda", 0)),
        "optimizer": {"state": {0: {"exp_avg": Tensor(floats(9))}}},
    }
    recursive = []
    recursive.append((recursive,))
    extras["recursive"] = recursive
    state_dict = OrderedDict(torch_files.tensors(weights))
    state_dict._metadata = OrderedDict({"": {"version": 1}})  # pyright: ignore[reportAttributeAccessIssue]
    for protocol in (2, 4, 5):
        contents = layout({"state_dict": state_dict, **extras}, protocol=protocol)
        arrays = read(tmp_path, contents)
        assert list(arrays) == ["head.weight"]
        assert_same(arrays["head.weight"], weights["head.weight"])


# What is refused: payloads that run under plain pickle


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def short(value: str) -> bytes:
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


SYSTEM = b"cos\nsystem\n"

# Each makes plain pickle run a command.
HOSTILE: dict[str, Callable[[str], bytes]] = {
    "reduce": lambda c: b"\x80\x02" + SYSTEM + text(c) + b"\x85R.",
    "reduce from posix or nt": lambda c: (
        b"\x80\x02c" + os.name.encode() + b"\nsystem\n" + text(c) + b"\x85R."
    ),
    "reduce of Popen": lambda c: (
        b"\x80\x02csubprocess\ngetoutput\n" + text(c) + b"\x85R."
    ),
    "eval": lambda c: (
        b"\x80\x02cbuiltins\neval\n"
        + text(f"__import__('os').system({c!r})")
        + b"\x85R."
    ),
    "python 2 name": lambda c: (
        b"\x80\x02c__builtin__\neval\n"
        + text(f"__import__('os').system({c!r})")
        + b"\x85R."
    ),
    "getattr": lambda c: (
        b"\x80\x02cbuiltins\ngetattr\ncos\npath\n"
        + text("os")
        + b"\x86R0"
        + SYSTEM
        + text(c)
        + b"\x85R."
    ),
    "stack global": lambda c: (
        b"\x80\x04" + short("os") + short("system") + b"\x93" + text(c) + b"\x85R."
    ),
    "stack global with a dotted name in an allowed module": lambda c: (
        b"\x80\x04"
        + short("argparse")
        + short("_os.system")
        + b"\x93"
        + text(c)
        + b"\x85R."
    ),
    "stack global from the memo": lambda c: (
        b"\x80\x04"
        + short("os")
        + b"\x940"
        + short("system")
        + b"\x940h\x00h\x01\x93"
        + text(c)
        + b"\x85R."
    ),
    "inst": lambda c: b"(" + text(c) + b"ios\nsystem\n.",
    "obj": lambda c: b"(" + SYSTEM + text(c) + b"o.",
    "newobj": lambda c: (
        b"\x80\x02cbuiltins\ntuple\ncbuiltins\nmap\n"
        + SYSTEM
        + b"]"
        + text(c)
        + b"a\x86\x81\x85\x81."
    ),
    "newobj_ex": lambda c: (
        b"\x80\x04cbuiltins\ntuple\ncbuiltins\nmap\n"
        + SYSTEM
        + b"]"
        + text(c)
        + b"a\x86}\x92\x85}\x92."
    ),
    "extension registry": lambda c: b"\x80\x02\x82\xf0" + text(c) + b"\x85R.",
    "before a valid object": lambda c: (
        b"\x80\x02" + SYSTEM + text(c) + b"\x85R0}" + text("w") + b"K\x01s."
    ),
    "in the name of a persistent id": lambda c: (
        b"\x80\x02("
        + text("storage")
        + SYSTEM
        + text(c)
        + b"\x85R"
        + text("0")
        + text("cpu")
        + b"K\x01tQ."
    ),
    "as the items of an allowed class": lambda c: (
        b"\x80\x02ccollections\nOrderedDict\n)R"
        + text("w")
        + SYSTEM
        + text(c)
        + b"\x85Rs."
    ),
    "as the state of an allowed class": lambda c: (
        b"\x80\x02cargparse\nNamespace\n)\x81}"
        + text("lr")
        + SYSTEM
        + text(c)
        + b"\x85Rsb."
    ),
    "as an argument of an allowed class": lambda c: (
        b"\x80\x02ccollections\nOrderedDict\n(" + SYSTEM + text(c) + b"\x85R0]tR."
    ),
}


class PlainUnpickler(pickle.Unpickler):
    def persistent_load(self, pid):
        return pid


@pytest.fixture
def extension():
    copyreg.add_extension("os", "system", 0xF0)
    yield
    copyreg.remove_extension("os", "system", 0xF0)


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_without_effect(tmp_path, name):
    canary = tmp_path / "canary"
    payload = HOSTILE[name](f"echo ran > {canary}")
    PlainUnpickler(io.BytesIO(payload)).load()
    assert canary.exists(), "the payload must work, or this test shows nothing"
    canary.unlink()
    # Also beside good weights, where nothing asks for it.
    weights = {"w": Tensor(floats(1))}
    good, _ = torch_files.pickled({"state_dict": weights})
    assert good.endswith(b"s.")
    beside = good[:-1] + text("args") + payload[:-1] + b"s."
    files = [
        payload,
        torch_files.zip_bytes(weights, data=payload),
        torch_files.zip_bytes(weights, data=beside),
        torch_files.legacy_bytes(weights, data=payload),
        torch_files.legacy_bytes(weights, data=beside),
        torch_files.legacy_bytes(weights).replace(
            pickle.dumps(torch_files.MAGIC_NUMBER, 2), payload
        ),
    ]
    for contents in files:
        with pytest.raises(CheckpointError, match="Received: path="):
            read(tmp_path, contents)
        assert not canary.exists()


def test_the_error_names_what_was_asked_for(tmp_path):
    contents = torch_files.zip_bytes({"w": Call(Global("os", "system"), ("true",))})
    with pytest.raises(CheckpointError, match=r"asks for os\.system.*Nothing was run"):
        read(tmp_path, contents)
    model = torch_files.zip_bytes(Global("torch.nn.modules.linear", "Linear"))
    with pytest.raises(CheckpointError, match=r"linear\.Linear.*save its state_dict"):
        read(tmp_path, model)
    with pytest.raises(CheckpointError, match="instruction INST"):
        contents = torch_files.zip_bytes(data=b"(ios\nsystem\n.")
        read(tmp_path, contents)


# BUILD sets attributes; on these it would change a class, or an object's class.
BUILDS = {
    "a class itself": b"cargparse\nNamespace\nN}" + text("evil") + b"K\x01s\x86b",
    "the class of an object": (
        b"cargparse\nNamespace\n)\x81N}"
        + text("__class__")
        + b"ccollections\nCounter\ns\x86b"
    ),
    "Python's attributes of an object": (
        b"cargparse\nNamespace\n)\x81}" + text("__dict__") + b"}sb"
    ),
    "Python's attributes of a dictionary": (
        b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"K\x01sb"
    ),
    "a tensor": b"ctorch._utils\n_rebuild_tensor\n}b",
    "a list": b"]}b",
    "an attribute without a text name": b"ccollections\nOrderedDict\n)R}K\x01K\x01sb",
}


@pytest.mark.parametrize("name", BUILDS)
def test_build_on_allowed_classes_is_refused(tmp_path, name):
    good, _ = torch_files.pickled({"state_dict": {"w": Tensor(floats(1))}})
    data = good[:-1] + text("args") + BUILDS[name] + b"s."
    contents = torch_files.zip_bytes({"w": Tensor(floats(1))}, data=data)
    with pytest.raises(CheckpointError, match="sets"):
        read(tmp_path, contents)
    assert not hasattr(argparse.Namespace, "evil")


def test_build_on_a_class_changes_it_under_plain_pickle():
    try:
        pickle.loads(BUILDS["a class itself"] + b".")
        assert argparse.Namespace.evil == 1  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        del argparse.Namespace.evil  # pyright: ignore[reportAttributeAccessIssue]


def storage_id(**changes) -> tuple:
    parts = {
        "tag": "storage",
        "type": Global("torch", "FloatStorage"),
        "key": "0",
        "device": "cpu",
        "elements": 1,
    }
    return tuple({**parts, **changes}.values())


BAD_IDENTIFIERS = {
    "no tuple": "storage",
    "module": storage_id(tag="module"),
    "tag of another type": storage_id(tag=("storage",)),
    "too short": storage_id()[:4],
    "too long": (*storage_id(), None, None),
    "type is a text": storage_id(type="FloatStorage"),
    "type is a function": storage_id(type=Global("torch._utils", "_rebuild_tensor")),
    "type is no storage": storage_id(type=Global("torch", "float32")),
    "key leads up": storage_id(key="../0"),
    "key leads up twice": storage_id(key="../../../../etc/passwd"),
    "key is absolute": storage_id(key="/etc/passwd"),
    "key with backslash": storage_id(key="..\\0"),
    "key with a folder": storage_id(key="a/0"),
    "key with dots": storage_id(key=".."),
    "key with a NUL": storage_id(key="0\0"),
    "key with a line end": storage_id(key="0\n"),
    "key is empty": storage_id(key=""),
    "key is long": storage_id(key="0" * 100_000),
    "key is a number": storage_id(key=0),
    "key is missing": storage_id(key="17"),
    "device is a function": storage_id(device=Global("torch", "device")),
    "negative size": storage_id(elements=-1),
    "size is a float": storage_id(elements=1.0),
    "size is a truth": storage_id(elements=True),
    "size one too large": storage_id(elements=2),
    "size of an exabyte": storage_id(elements=2**60),
    "size beyond 64 bits": storage_id(elements=2**80),
    "size of thousands of bits": storage_id(elements=2**2030),
    "view is a number": (*storage_id(), 3),
    "view of two parts": (*storage_id(), ("v", 0)),
    "view beyond the end": (*storage_id(), ("v", 1, 1)),
    "negative view": (*storage_id(), ("v", -1, 1)),
}


@layouts
@pytest.mark.parametrize("name", BAD_IDENTIFIERS)
def test_bad_persistent_ids_are_refused(tmp_path, layout, name):
    values = floats(1)
    bad = Storage(values, identifier=BAD_IDENTIFIERS[name])
    # The good one leaves the storage "0" in the file.
    state_dict = {
        "good": Tensor(values),
        "bad": Tensor(storage=bad, shape=(1,), strides=(1,)),
    }
    with pytest.raises(CheckpointError):
        read(tmp_path, layout(state_dict))


def test_the_persistent_id_that_those_are_made_from_is_good(tmp_path):
    values = floats(1)
    same = Storage(values, identifier=storage_id())
    state_dict = {
        "good": Tensor(values),
        "same": Tensor(storage=same, shape=(1,), strides=(1,)),
    }
    for layout in LAYOUTS:
        assert read(tmp_path, layout(state_dict))["same"] == 1


BAD_TENSORS = {
    "one beyond the end": {"shape": (3, 3), "strides": (3, 1), "offset": 4},
    "stride beyond the end": {"shape": (2, 2), "strides": (11, 1)},
    "offset beyond the end": {"shape": (1,), "strides": (1,), "offset": 12},
    "scalar beyond the end": {"shape": (), "strides": (), "offset": 12},
    "offset beyond 64 bits": {"shape": (1,), "strides": (1,), "offset": 2**64},
    "negative offset": {"shape": (1,), "strides": (1,), "offset": -1},
    "negative length": {"shape": (-1,), "strides": (1,)},
    "negative stride": {"shape": (2,), "strides": (-1,), "offset": 3},
    "stride missing": {"shape": (2, 2), "strides": (1,)},
    "shape is a list": {"shape": [2], "strides": (1,)},
    "length is a float": {"shape": (2.0,), "strides": (1,)},
    "length is a truth": {"shape": (True,), "strides": (1,)},
    "thousands of dimensions": {"shape": (1,) * 5000, "strides": (0,) * 5000},
    "expanded to gigabytes": {"shape": (2**30,), "strides": (0,)},
    "expanded beyond 64 bits": {"shape": (2**40,) * 20, "strides": (0,) * 20},
    "expanded beyond all bounds": {"shape": (2**2000,) * 30, "strides": (0,) * 30},
    "empty but enormous": {"shape": (0, 2**62), "strides": (1, 1)},
}


@layouts
@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_do_not_fit_their_storage_are_refused(tmp_path, layout, name):
    storage = Storage(np.arange(12, dtype="float32"))
    state_dict = {"w": Tensor(storage=storage, **BAD_TENSORS[name])}
    with pytest.raises(CheckpointError, match="tensor"):
        read(tmp_path, layout(state_dict))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("_rebuild_tensor_v2", ()),
        ("_rebuild_tensor_v2", (1, 2, 3, 4)),
        ("_rebuild_tensor_v2", tuple(range(9))),
        ("_rebuild_parameter", (1, True, None)),
        ("_rebuild_parameter", ()),
    ],
)
def test_tensors_made_from_anything_else_are_refused(tmp_path, function, arguments):
    contents = {"w": Call(Global("torch._utils", function), arguments)}
    with pytest.raises(CheckpointError, match=r"tensor|parameter"):
        read(tmp_path, torch_files.zip_bytes(contents))


def test_one_storage_with_two_types_or_sizes_is_refused(tmp_path):
    values = np.zeros(4, "float32")
    for other in (
        storage_id(key="0", elements=2),
        storage_id(key="0", elements=4, type=Global("torch", "IntStorage")),
    ):
        state_dict = {
            "a": Tensor(values),
            "b": Tensor(storage=Storage(values, identifier=other), shape=(1,)),
        }
        with pytest.raises(CheckpointError, match="two types or two sizes"):
            read(tmp_path, torch_files.zip_bytes(state_dict))


# What is refused: sizes that lie, and small files that cause much work

MANY = 60_000
CUT = "pickle is cut"
UNKNOWN = "torch.save does not write"
OBJECTS = "more objects than its size allows"
BOMBS = {
    "8-byte text size": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a", CUT),
    "8-byte bytes size": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a", CUT),
    "8-byte bytearray size": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a", CUT),
    "largest size": (b"\x80\x05\x96" + b"\xff" * 8, CUT),
    "4-byte text size": (b"\x80\x02X\xff\xff\xff\xff", CUT),
    "4-byte bytes size": (b"\x80\x03B\xff\xff\xff\xff", CUT),
    "negative string size": (b"\x80\x02T\xff\xff\xff\xff", CUT),
    "long integer": (b"\x80\x02\x8b\xff\xff\xff\x7f\x01", UNKNOWN),
    "decimal integer": (b"\x80\x02L" + b"9" * MANY + b"L\n.", UNKNOWN),
    "memo index": (b"\x80\x02Nr\xff\xff\xff\xff.", "memo jumps"),
    "memo that was never put": (b"\x80\x02j\xff\xff\xff\xff.", "memo has no number"),
    "name without an end": (b"\x80\x02c" + b"a" * MANY, "does not end"),
    "nested marks": (b"\x80\x02" + b"(" * MANY, "nested more than"),
    "nested tuples as a key": (b"\x80\x02})" + b"\x85" * MANY + b"Ns.", OBJECTS),
    "empty dictionaries": (b"\x80\x02(" + b"}" * MANY + b"t.", OBJECTS),
    "empty lists": (b"\x80\x02(" + b"]" * MANY + b"t.", OBJECTS),
    "copies of the top": (b"\x80\x02](" + b"2" * MANY + b"e.", UNKNOWN),
    "one list made a dictionary again and again": (
        b"\x80\x02ccollections\nOrderedDict\nq\x00]q\x01("
        + b"N" * 1000
        + b"e("
        + b"h\x00h\x01\x85R" * MANY
        + b"t.",
        OBJECTS,
    ),
    "one state set again and again": (
        b"\x80\x02}q\x00("
        + b"X\x00\x00\x00\x00N" * 10_000
        + b"u"
        + b"}h\x00b0" * MANY
        + b".",
        OBJECTS,
    ),
    "protocol": (b"\x80\xff.", "protocol 255"),
    "no end": (b"\x80\x02" + b"N" * MANY, CUT),
    "nothing on the stack": (b"\x80\x02.", "mid-air"),
    "too much on the stack": (b"\x80\x02NN.", "mid-air"),
    "out-of-band buffer": (b"\x80\x05\x97.", UNKNOWN),
    "unknown instruction": (b"\x80\x02\xff.", "0xff"),
    "invalid UTF-8": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not valid UTF-8"),
    "pop of nothing": (b"\x80\x020.", "more values than"),
    "pop below a mark": (b"\x80\x02N(0.", "more values than"),
    "tuple of nothing": (b"\x80\x02\x87.", "more values than"),
    "no mark": (b"\x80\x02Nt.", "closes what it has not opened"),
    "odd dictionary": (b"\x80\x02}(Nu.", "a key too many"),
    "append to a number": (b"\x80\x02K\x01Na.", "wrong kind"),
    "item of a number": (b"\x80\x02K\x01NNs.", "wrong kind"),
    "call of a number": (b"\x80\x02K\x01)R.", "calls a value of type int"),
    "call without a tuple": (
        b"\x80\x02ccollections\nOrderedDict\nNR.",
        "without a tuple",
    ),
    "call of an object": (
        b"\x80\x02cargparse\nNamespace\n)\x81)R.",
        "calls a value of type Inert",
    ),
    "object of a number": (b"\x80\x02K\x01)\x81.", "object of a value of type int"),
    "odd pairs": (
        b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R.",
        r"an odd entry|storages it lists",
    ),
    "odd arguments": (
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        "unexpected arguments",
    ),
    "odd size": (b"\x80\x02ctorch\nSize\nK\x01\x85R.", "unexpected arguments"),
    "global without texts": (b"\x80\x04NN\x93.", "not a text"),
}


@layouts
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_the_size_of_the_file(tmp_path, layout, name):
    data, match = BOMBS[name]
    weights = {"w": Tensor(floats(1))}
    contents = layout(weights, data=data)
    if layout is torch_files.legacy_bytes and match in (CUT, "does not end"):
        # Cut there, too: otherwise the pickle goes on with what follows it.
        contents = contents[: contents.index(data) + len(data)]
    read(tmp_path, layout(weights))  # imports what is imported late
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=match):
            read(tmp_path, contents)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21 + 64 * len(contents)


@layouts
@pytest.mark.parametrize("elements", [3, 10**6, 2**60, 2**64, 2**2030])
def test_storages_smaller_than_they_state_are_refused(tmp_path, layout, elements):
    storage = Storage(floats(1, 2), elements=elements)
    for shape in ((1,), (2,), (3,)):
        state_dict = {"w": Tensor(storage=storage, shape=shape)}
        with pytest.raises(CheckpointError, match=r"but has 8 bytes|the file is cut"):
            read(tmp_path, layout(state_dict))


def test_later_pickles_of_a_legacy_file_cannot_restate_a_storage(tmp_path):
    contents = torch_files.legacy_bytes({"w": Tensor(floats(1, 2))})
    keys = pickle.dumps(["0"], 2)
    assert contents.count(keys) == 1
    lie, _ = torch_files.pickled(
        Storage(floats(1), identifier=storage_id(elements=0)), legacy=True
    )
    # The list of keys, after a storage that is made and dropped.
    lie = lie[:-1] + b"0" + keys
    arrays = read(tmp_path, contents.replace(keys, lie))
    np.testing.assert_array_equal(arrays["w"], [1, 2])


def test_too_many_instructions_are_refused(tmp_path, monkeypatch):
    module = "keras_metaformer.weights.files.torch_pickle._MAX_INSTRUCTIONS"
    monkeypatch.setattr(module, 1000)
    with pytest.raises(CheckpointError, match="more than 1000 instructions"):
        read(tmp_path, torch_files.zip_bytes(data=b"\x80\x02" + b"N0" * 1000))


def test_lists_of_lists_of_lists_are_never_unfolded(tmp_path):
    # Sixty levels of twice the one before: 2**60 entries if anything walked them.
    laughs = []
    for _ in range(60):
        laughs = [laughs, laughs]
    state_dict = {"w": Tensor(floats(1))}
    contents = torch_files.zip_bytes({"state_dict": state_dict, "extra": laughs})
    assert read(tmp_path, contents)["w"] == 1


@layouts
def test_every_cut_is_noticed(tmp_path, layout):
    whole = layout(torch_files.tensors(torch_files.sample_arrays()))
    for length in range(1, len(whole), 97):
        with pytest.raises(CheckpointError):
            read(tmp_path, whole[:length])


def test_facts_at_the_head_of_legacy_files_are_checked(tmp_path):
    state_dict = {"w": Tensor(floats(1))}
    for contents, match in (
        (torch_files.legacy_bytes(state_dict, magic=7), "magic number is missing"),
        (torch_files.legacy_bytes(state_dict, version=1000), "protocol is not 1001"),
        (torch_files.legacy_bytes(state_dict, little_endian=False), "little-endian"),
    ):
        with pytest.raises(CheckpointError, match=match):
            read(tmp_path, contents)


def test_the_sizes_in_legacy_files_are_checked(tmp_path):
    good = torch_files.legacy_bytes({"w": Tensor(floats(1, 2))})
    assert good[-16:-8] == struct.pack("<q", 2)
    for stated in (1, 3, -1, 2**62):
        with pytest.raises(CheckpointError, match="elements, but its tensors state 2"):
            read(tmp_path, good[:-16] + struct.pack("<q", stated) + good[-8:])
    lying = Tensor(storage=Storage(floats(1, 2), elements=1000), shape=(1000,))
    with pytest.raises(CheckpointError, match="the file is cut"):
        read(tmp_path, torch_files.legacy_bytes({"w": lying}))


def test_the_byte_order_of_zip_files_is_checked(tmp_path):
    state_dict = {"w": Tensor(floats(1))}
    with pytest.raises(CheckpointError, match="little-endian"):
        read(tmp_path, torch_files.zip_bytes(state_dict, byteorder=b"big"))


def test_torchscript_is_named(tmp_path):
    contents = torch_files.zip_bytes(
        {"w": Tensor(floats(1))}, extra_members=(("archive/code/x.py", b""),)
    )
    with pytest.raises(CheckpointError, match="TorchScript"):
        read(tmp_path, contents)
