"""read_checkpoint: kinds of files, wrappers, memory, and files that are refused."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from keras_metaformer.weights.files.errors import CheckpointError
from keras_metaformer.weights.files.readers import read_checkpoint
from tests.weights import torch_files
from tests.weights.torch_files import Tensor, floats, read

pytestmark = pytest.mark.backend_independent


def npz_bytes(arrays: dict[str, np.ndarray], compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=method)
    return buffer.getvalue()


SAMPLE = torch_files.sample_arrays()
KINDS = {
    "safetensors": lambda arrays: safetensors.numpy.save(arrays),
    "npz": npz_bytes,
    "npz compressed": lambda arrays: npz_bytes(arrays, compressed=True),
    "torch zip": lambda arrays: torch_files.zip_bytes(torch_files.tensors(arrays)),
    "torch legacy": lambda arrays: torch_files.legacy_bytes(
        torch_files.tensors(arrays)
    ),
}


# Kinds of files


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_arrays(tmp_path, kind):
    arrays = read(tmp_path, KINDS[kind](SAMPLE))
    assert set(arrays) == set(SAMPLE)
    for name, expected in SAMPLE.items():
        assert arrays[name].dtype == expected.dtype
        assert arrays[name].shape == expected.shape
        assert arrays[name].tobytes() == expected.tobytes()
        with pytest.raises(ValueError, match="read-only"):
            arrays[name].ravel(order="K")[...] = 0
            arrays[name][...] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_name_of_the_file_does_not_matter(tmp_path, kind):
    path = tmp_path / "weights.safetensors.pth.npz"
    arrays = read_checkpoint(str(torch_files.write(path, KINDS[kind](SAMPLE))))
    assert len(arrays) == len(SAMPLE)


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_outlive_the_name_of_their_file(tmp_path, kind):
    arrays = read(tmp_path, KINDS[kind]({"w": floats(1, 2)}))
    (tmp_path / "checkpoint.pth").unlink()
    np.testing.assert_array_equal(arrays["w"], [1, 2])


@pytest.mark.parametrize("compressed", [False, True])
def test_npz_orders_byte_orders_and_names(tmp_path, compressed):
    sample = {
        "MixerBlock_0/token_mixing/Dense_0/kernel": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype="int16").reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f4"),
    }
    arrays = read(tmp_path, npz_bytes(sample, compressed))
    assert set(arrays) == set(sample)
    for name, expected in sample.items():
        np.testing.assert_array_equal(arrays[name], expected, strict=True)
    assert arrays["fortran"].flags.f_contiguous


def test_bfloat16_keeps_its_bits(tmp_path):
    bits = np.arange(2**16, dtype="uint16")
    for kind in KINDS:
        array = read(tmp_path, KINDS[kind]({"w": bits.view(ml_dtypes.bfloat16)}))["w"]
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array.view("uint16"), bits)


# Wrappers


@pytest.mark.parametrize("layout", [torch_files.zip_bytes, torch_files.legacy_bytes])
@pytest.mark.parametrize(
    "entry", ["state_dict", "model", "model_state_dict", "net", "module"]
)
def test_wrapped_state_dicts(tmp_path, layout, entry):
    contents = {"epoch": 3, entry: {"w": Tensor(floats(1))}, "loss": Tensor(floats(9))}
    assert list(read(tmp_path, layout(contents))) == ["w"]


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema"])
def test_which_weights_of_a_training_checkpoint_are_taken(tmp_path, entry):
    contents = torch_files.zip_bytes(
        {"state_dict": {"w": Tensor(floats(1))}, entry: {"w": Tensor(floats(2))}}
    )
    assert read(tmp_path, contents)["w"] == 2
    assert read(tmp_path, contents, prefer_ema=False)["w"] == 1
    only = torch_files.zip_bytes({entry: {"w": Tensor(floats(2))}})
    assert read(tmp_path, only, prefer_ema=False)["w"] == 2
    unused = {"model": {"w": Tensor(floats(1))}, entry: None}
    assert read(tmp_path, torch_files.zip_bytes(unused))["w"] == 1


def test_a_wrapper_in_a_wrapper(tmp_path):
    contents = {"model": {"state_dict": OrderedDict(w=Tensor(floats(1)))}}
    assert list(read(tmp_path, torch_files.zip_bytes(contents))) == ["w"]
    endless: dict = {}
    endless["model"] = endless
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        read(tmp_path, torch_files.zip_bytes(endless))


def test_a_tensor_named_like_a_wrapper_is_a_tensor(tmp_path):
    contents = {"model": Tensor(floats(1)), "net": Tensor(floats(2))}
    assert list(read(tmp_path, torch_files.zip_bytes(contents))) == ["model", "net"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b.c"], ["a", "b.c"]),
        (["_orig_mod.a"], ["a"]),
        (["module._orig_mod.a", "module._orig_mod.b"], ["a", "b"]),
        (["module.module.a"], ["a"]),
        (["module.a", "head.b"], ["head.b", "module.a"]),
        (["n_averaged", "module.a"], ["a"]),
        (["n_averaged"], ["n_averaged"]),
        (["head.module.a"], ["head.module.a"]),
    ],
)
def test_prefixes_that_all_names_have_are_removed(tmp_path, kind, names, expected):
    arrays = {name: floats(number) for number, name in enumerate(names)}
    assert sorted(read(tmp_path, KINDS[kind](arrays))) == expected


def test_contents_without_weights_are_refused(tmp_path):
    tensor = Tensor(floats(1))
    for contents, match in (
        ({}, "holds no tensors"),
        ({"epoch": 3, "name": "x"}, r"only the entries \['epoch', 'name'\]"),
        ({"state_dict": {}}, "holds no tensors"),
        ([tensor], "no dictionary of tensors"),
        (tensor, "no dictionary of tensors"),
        (None, "no dictionary of tensors"),
        ({0: tensor}, "have no names.*int"),
        ({("a",) * 9: tensor}, "have no names.*tuple"),
    ):
        with pytest.raises(CheckpointError, match=match):
            read(tmp_path, torch_files.zip_bytes(contents))
    with pytest.raises(CheckpointError, match="holds no tensors"):
        read(tmp_path, safetensors.numpy.save({}))
    with pytest.raises(CheckpointError, match="zip archive with nothing in it"):
        read(tmp_path, npz_bytes({}))


# Files of other kinds


def test_no_file_and_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: path=.*absent"):
        read_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(IsADirectoryError, match="found a directory"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="empty"):
        read(tmp_path, b"")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_checkpoint(tmp_path / "pipe")


OTHER_KINDS = {
    "html": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "web page"),
    "html in capitals": (b"<HTML><HEAD>", "web page"),
    "html after a mark": (b"\xef\xbb\xbf<html>", "web page"),
    "xml error of a store": (b"<?xml version='1.0'?><Error>", "web page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "git lfs pull",
    ),
    "text": (b"Repository not found", "text that begins 'Repository not found'"),
    "json": (b'{"error": "no access"}', "text that begins"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "model.load_weights"),
    "keras": (
        zipped(("config.json", b"{}"), ("model.weights.h5", b"")),
        "keras.saving.load_model",
    ),
    "other zip": (zipped(("readme.txt", b"")), r"members are \['readme.txt'\]"),
    "empty zip": (zipped(), "nothing in it"),
    "gzip": (b"\x1f\x8b\x08" + bytes(20), "compressed"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "tar archive"),
    "zeros": (bytes(100), "unknown kind"),
    "one byte": (b"\x80", "unknown kind"),
    "noise": (np.random.default_rng(0).bytes(1000), "unknown kind"),
    "plain pickle": (b"\x80\x02}.", "magic number is missing"),
    "text pickle": (b"(dp0\n.", "text that begins"),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_files_of_other_kinds_are_named(tmp_path, name):
    contents, match = OTHER_KINDS[name]
    with pytest.raises(CheckpointError, match=f"{match}.*Received: path=.*file"):
        read(tmp_path, contents)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_are_refused(tmp_path, kind):
    whole = KINDS[kind](SAMPLE)
    for length in [*range(1, len(whole), 211), len(whole) - 1]:
        with pytest.raises(CheckpointError):
            read(tmp_path, whole[:length])


# Damaged and hostile archives


def patched(contents: bytes, *changes: tuple[int, bytes]) -> bytes:
    changed = bytearray(contents)
    for position, replacement in changes:
        changed[position : position + len(replacement)] = replacement
    return bytes(changed)


ARRAY = npy_bytes(floats(1, 2))
ONE = zipped(("a.npy", ARRAY))
DIRECTORY = ONE.index(b"PK\x01\x02")
TWO = zipped(("a.npy", ARRAY), ("b.npy", ARRAY))
SECOND_ENTRY = TWO.index(b"PK\x01\x02", TWO.index(b"PK\x01\x02") + 1)
ZEROS = npy_bytes(np.zeros(10**6, "float32"))
BAD_ARCHIVES = {
    "same name twice": (zipped(("a.npy", ARRAY), ("a.npy", ARRAY)), "two members"),
    "leads up": (zipped(("../a.npy", ARRAY)), "not a plain path"),
    "leads up from within": (zipped(("a/../../b.npy", ARRAY)), "not a plain path"),
    "backslash": (zipped(("..\\a.npy", ARRAY)), "not a plain path"),
    "absolute": (zipped(("/a.npy", ARRAY)), "outside"),
    "drive": (zipped(("C:a.npy", ARRAY)), "outside"),
    "NUL in the name": (
        patched(ONE, (30, b"a\0npy"), (DIRECTORY + 46, b"a\0npy")),
        "not a plain path",
    ),
    "encrypted": (patched(ONE, (6, b"\x01"), (DIRECTORY + 8, b"\x01")), "encrypted"),
    "encrypted in the header only": (patched(ONE, (6, b"\x01")), "disagree"),
    "other name in the header": (patched(ONE, (30, b"b")), "disagree"),
    "other method in the header": (patched(ONE, (8, b"\x08")), "disagree"),
    "no header": (patched(TWO, (TWO.rindex(b"PK\x03\x04"), b"XX")), "disagree"),
    "header elsewhere": (patched(ONE, (DIRECTORY + 42, b"\x07")), "disagree"),
    "header beyond the end": (
        patched(ONE, (DIRECTORY + 42, b"\xff\xff\xff\x7f")),
        "beyond the file's end",
    ),
    "members overlap": (
        patched(TWO, (SECOND_ENTRY + 42, struct.pack("<I", 0))),
        "overlaps",
    ),
    "size of a stored member larger": (
        patched(ONE, (DIRECTORY + 20, struct.pack("<II", 2**31, 2**31))),
        "is cut",
    ),
    "two sizes of a stored member": (
        patched(ONE, (DIRECTORY + 24, struct.pack("<I", 2**31))),
        "two different sizes",
    ),
    "size of a member smaller": (
        patched(ONE, (DIRECTORY + 20, struct.pack("<II", 130, 130))),
        "header states another size",
    ),
    "bzip2": (zipped(("a.npy", ARRAY), method=zipfile.ZIP_BZIP2), "method 12"),
    "lzma": (zipped(("a.npy", ARRAY), method=zipfile.ZIP_LZMA), "method 14"),
    "bomb": (zipped(("a.npy", ZEROS), method=zipfile.ZIP_DEFLATED), "would unpack to"),
    "torch, compressed": (
        torch_files.zip_bytes(
            {"w": Tensor(np.zeros(10**6, "float32"))},
            compression=zipfile.ZIP_DEFLATED,
        ),
        "compressed",
    ),
    "torch, two pickles": (
        zipped(("a/data.pkl", b"\x80\x02}."), ("b/data.pkl", b"\x80\x02}.")),
        "2 members FOLDER/data.pkl",
    ),
    "torch, pickle too deep": (
        zipped(("a/b/data.pkl", b"\x80\x02}.")),
        "0 members FOLDER/data.pkl",
    ),
    "directory entry damaged": (patched(ONE, (DIRECTORY, b"XX")), "damaged"),
    "directory size": (
        patched(ONE, (len(ONE) - 10, struct.pack("<I", 2**31))),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archives_are_refused(tmp_path, name):
    assert list(read(tmp_path, ONE)) == ["a"]
    contents, match = BAD_ARCHIVES[name]
    with pytest.raises(CheckpointError, match=match):
        read(tmp_path, contents)


def test_an_archive_that_unpacks_to_another_size_or_content_is_refused(tmp_path):
    noise = np.random.default_rng(0).normal(size=1000).astype("float32")
    good = npz_bytes({"a": noise}, compressed=True)
    directory = good.index(b"PK\x01\x02")
    (size,) = struct.unpack_from("<I", good, directory + 24)
    assert size == 128 + 4000
    for change in (
        (directory + 24, struct.pack("<I", size + 400)),  # states more
        (directory + 24, struct.pack("<I", size - 400)),  # states less
        (directory + 16, b"\0\0\0\0"),  # another CRC-32
        (1000, b"\xff" * 40),  # damaged
    ):
        with pytest.raises(CheckpointError, match=r"member|header states"):
            read(tmp_path, patched(good, change))


def npy_with_header(header: str, data: bytes = bytes(8), version: int = 1) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + data


def header(descr: str = "'<f4'", shape: str = "(2,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }} \n"


BAD_ARRAYS = {
    "object": npy_with_header(header("'|O'")),
    "text": npy_with_header(header("'<U2'")),
    "void": npy_with_header(header("'|V4'")),
    "complex": npy_with_header(header("'<c8'"), bytes(16)),
    "record": npy_with_header(header("[('a', '<f4')]")),
    "expression": npy_with_header(header(shape="(__import__('os'),)")),
    "nested": npy_with_header(header(shape="(" * 200 + ")" * 200)),
    "long header": npy_with_header(header() + " " * 60_000),
    "negative": npy_with_header(header(shape="(-2,)")),
    "too large": npy_with_header(header(shape="(3,)")),
    "too small": npy_with_header(header(shape="(1,)")),
    "exabytes": npy_with_header(header(shape="(1000000000000000000,)")),
    "more digits": npy_with_header(header(shape="(" + "9" * 200 + ",)")),
    "empty but enormous": npy_with_header(header(shape="(0, 99999999999999)"), b""),
    "dimensions": npy_with_header(header(shape="(" + "1," * 60 + ")")),
    "header longer than the member": npy_with_header(header())[:40],
    "header cut": b"\x93NUMPY\x01\x00",
    "version": npy_with_header(header(), version=9),
    "no array": b"\x80\x02}.",
    "nothing": b"",
}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_in_npz_are_refused(tmp_path, name, method):
    good = npy_with_header(header())
    assert read(tmp_path, zipped(("a.npy", good), method=method))["a"].shape == (2,)
    later = npy_with_header(header(), version=2)
    assert read(tmp_path, zipped(("a.npy", later), method=method))["a"].shape == (2,)
    with pytest.raises(CheckpointError):
        read(tmp_path, zipped(("a.npy", BAD_ARRAYS[name]), method=method))


def safetensors_with_header(text: str, data: bytes = bytes(8)) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + data


def entry(dtype: str = "F32", shape: str = "[2]", offsets: str = "[0,8]") -> str:
    return f'{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'


BAD_SAFETENSORS = {
    "shape larger than its bytes": entry(shape="[3]"),
    "shape smaller than its bytes": entry(shape="[1]"),
    "shape beyond 64 bits": entry(shape="[4294967296,4294967296,4294967296]"),
    "empty but enormous": '{"w":{"dtype":"F32","shape":[0,9007199254740993],'
    '"data_offsets":[0,0]},"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "offsets beyond the end": entry(shape="[4]", offsets="[0,16]"),
    "offsets that leave a gap": entry(shape="[1]", offsets="[4,8]"),
    "offsets backwards": entry(offsets="[8,0]"),
    "type unknown": entry(dtype="F31"),
    "type unsupported": entry(dtype="F8_E4M3", shape="[8]"),
    "dimensions": entry(shape="[2" + ",1" * 60 + "]"),
    "no JSON": '{"w":',
    "nested": '{"w":' + "[" * 5000 + "]" * 5000 + "}",
    "list": "{}[]",
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_bad_safetensors_are_refused(tmp_path, name):
    assert read(tmp_path, safetensors_with_header(entry()))["w"].shape == (2,)
    with pytest.raises(CheckpointError):
        read(tmp_path, safetensors_with_header(BAD_SAFETENSORS[name]))


# Memory and imports, each in a process of its own

ALONE = """
import importlib.util, sys, types
# The package without its __init__.py, which imports Keras.
package = types.ModuleType("keras_metaformer")
spec = importlib.util.find_spec("keras_metaformer")
package.__path__ = list(spec.submodule_search_locations)
sys.modules["keras_metaformer"] = package
from keras_metaformer.weights.files.readers import read_checkpoint
"""


def run_alone(program: str, *arguments: object) -> str:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", ALONE + program, *map(str, arguments)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_reading_imports_numpy_alone(tmp_path):
    files = [
        torch_files.write(tmp_path / kind.replace(" ", "_"), KINDS[kind](SAMPLE))
        for kind in KINDS
    ]
    program = """
for path in sys.argv[1:]:
    assert read_checkpoint(path)
print({"keras", "tensorflow", "jax", "torch"} & set(sys.modules))
"""
    assert run_alone(program, *files) == "set()\n"


MEMORY = """
import tracemalloc
import ml_dtypes, numpy as np, safetensors

def peak_memory():  # in bytes, since the last reset
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

path, mode = sys.argv[1:]
read_checkpoint(path)  # imports what is imported late
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # resets the peak
before = peak_memory()
if mode == "copies":  # shows that the measurement sees a copy
    arrays = {k: np.array(v) for k, v in read_checkpoint(path).items()}
else:
    arrays = read_checkpoint(path)
total = sum(float(array.ravel(order="K")[:].view(np.uint8).max())
            for array in arrays.values())
print(peak_memory() - before)
del arrays
tracemalloc.start()
arrays = read_checkpoint(path)
print(tracemalloc.get_traced_memory()[1])
"""
MEGABYTE = 2**20


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="the peak memory of a process is measured as Linux reports it",
)
@pytest.mark.parametrize("kind", KINDS)
def test_peak_memory_is_at_most_1_3_times_the_file(tmp_path, kind):
    random = np.random.default_rng(0)
    # One large array: a copy of it would show.
    sample = {
        "large": random.bytes(48 * MEGABYTE),
        "medium": random.bytes(12 * MEGABYTE),
        **{f"small{i}": random.bytes(64 * 1024) for i in range(64)},
    }
    arrays = {name: np.frombuffer(data, "int32") for name, data in sample.items()}
    path = torch_files.write(tmp_path / "file", KINDS[kind](arrays))
    size = path.stat().st_size
    assert size > 64 * MEGABYTE
    peak, allocated = map(int, run_alone(MEMORY, path, "maps").split())
    assert peak <= 1.3 * size
    if kind == "npz compressed":
        assert allocated <= 1.1 * size
    else:
        assert allocated <= MEGABYTE
        copies = int(run_alone(MEMORY, path, "copies").split()[0])
        assert copies > 1.3 * size
