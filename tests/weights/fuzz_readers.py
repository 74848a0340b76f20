"""Reads mutated checkpoints: each must be read or refused, cheaply.

    python tests/weights/fuzz_readers.py --mutations 100000 --seed 0

A mutation fails if reading it raises anything but CheckpointError, gives arrays that
cannot be read through, or allocates more than the file's own size class. A crash or
a hang (60 s without progress) ends the process with a stack trace. The same seed
makes the same files; the files that fail are kept in the folder given by --keep.
"""

import argparse
import faulthandler
import importlib.util
import io
import json
import sys
import tempfile
import traceback
import tracemalloc
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

HANG_SECONDS = 60
INTERESTING = (0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
INTERESTING += (2**62, 2**63, 2**64 - 1)
# An object of Python takes up to some 200 bytes where a pickle needs 4 to make it,
# and there is a budget of 10,000 objects in the smallest file.
BYTES_PER_BYTE = 64
BYTES_IN_ANY_CASE = 4 * 2**20


def import_alone() -> None:
    """Puts the package without its __init__.py, which imports Keras, in place."""
    root = Path(__file__).parents[2]
    sys.path.insert(0, str(root))
    spec = importlib.util.find_spec("keras_metaformer")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("keras_metaformer")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["keras_metaformer"] = package


@dataclass(frozen=True)
class Seed:
    """Bytes to change, and how they become a file afterwards."""

    data: bytes
    make_file: Callable[[bytes], bytes] = bytes


def make_seeds() -> list[Seed]:
    """Small files of every kind, and pickles that are put into sound files."""
    import safetensors.numpy

    from tests.weights import torch_files
    from tests.weights.torch_files import Call, Global, Storage, Tensor

    random = np.random.default_rng(1)
    arrays: dict[str, np.ndarray] = {
        "stem.weight": random.normal(size=(4, 3, 2, 2)).astype("float32"),
        "head.bias": random.normal(size=9).astype("float16"),
        "scale": np.ones(3, ml_dtypes.bfloat16),
        "steps": np.array(7),
    }
    base = Storage(np.arange(24, dtype="float32"))
    training = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, name="x"),
        "state_dict": {
            "module.a": Tensor(storage=base, shape=(6, 4), strides=(1, 6)),
            "module.b": torch_files.parameter(np.ones(2, "float32")),
            "module.c": Tensor(storage=base, offset=3, shape=(3, 2), strides=(0, 1)),
        },
        "optimizer": {"state": {0: {"m": Tensor(np.ones(3))}}, "groups": [(1, 2.5)]},
        "size": Call(Global("torch", "Size"), ((2, 3),)),
    }
    tensors = torch_files.tensors(arrays)
    stored, packed = io.BytesIO(), io.BytesIO()
    np.savez(stored, **arrays)  # pyright: ignore[reportArgumentType]
    np.savez_compressed(packed, **arrays)  # pyright: ignore[reportArgumentType]
    files = [
        safetensors.numpy.save(arrays),
        stored.getvalue(),
        packed.getvalue(),
        torch_files.zip_bytes(tensors),
        torch_files.zip_bytes(training, protocol=4),
        torch_files.legacy_bytes(tensors),
        torch_files.legacy_bytes(training),
        torch_files.legacy_bytes(training, protocol=5),
    ]
    seeds = [Seed(data) for data in files]
    for contents, protocol in ((tensors, 2), (training, 2), (training, 4)):
        for make, legacy in (
            (torch_files.zip_bytes, False),
            (torch_files.legacy_bytes, True),
        ):
            data, _ = torch_files.pickled(contents, protocol, legacy)
            seeds.append(Seed(data, partial(_with_pickle, make, contents)))
    return seeds


def _with_pickle(make: Callable, contents: object, data: bytes) -> bytes:
    return make(contents, data=data)


def mutate(random: np.random.Generator, seeds: list[Seed]) -> bytes:
    """Changes one of the files, mostly in one or two places."""
    seed = seeds[random.integers(len(seeds))]
    data = bytearray(seed.data)
    for _ in range(random.geometric(0.5)):
        if not data:
            break
        # Half of the changes near either end, where most of the structure is.
        size = len(data)
        position = int(random.integers(size))
        if random.random() < 0.5:
            position = int(size * random.beta(0.3, 0.3)) % size
        length = int(min(random.geometric(0.1), 400))
        match random.integers(10):
            case 0:
                data[position] ^= 1 << int(random.integers(8))
            case 1:
                data[position] = int(random.integers(256))
            case 2:
                number = INTERESTING[random.integers(len(INTERESTING))]
                width = int(random.choice([1, 2, 4, 8]))
                patch = (number % 2 ** (8 * width)).to_bytes(width, "little")
                data[position : position + width] = patch
            case 3:
                del data[position : position + length]
            case 4:
                data[position:position] = random.bytes(length)
            case 5:
                chunk = bytes(data[position : position + length])
                data[position:position] = chunk * int(random.integers(1, 20))
            case 6:
                other = seeds[random.integers(len(seeds))].data
                start = int(random.integers(len(other)))
                data[position : position + length] = other[start : start + length]
            case 7:
                # Digits are shapes and offsets in JSON and in .npy headers.
                digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
                if digits:
                    index = digits[random.integers(len(digits))]
                    data[index : index + 1] = str(random.integers(10**5)).encode()
            case 8:
                # Instructions of a pickle.
                codes = (
                    b"()]}tuesabRQ\x81\x85\x86\x87\x93\x94.0Nh\x00q\x01K\xffM\xff\xff"
                )
                data[position] = codes[random.integers(len(codes))]
            case 9:
                if random.random() < 0.3:
                    del data[position:]
    return seed.make_file(bytes(data))


def failure_of(path: Path, read: Callable, error: type[Exception]) -> tuple[str, str]:
    """Returns ("read" or "refused", "") or ("failed", why)."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        arrays = read(path)
        for name, array in arrays.items():
            assert isinstance(name, str) and isinstance(array, np.ndarray)
            assert not array.flags.writeable
            assert array.nbytes <= max(path.stat().st_size, 8) * 16
            array.tobytes()
        outcome = "read"
        arrays = array = None
    except error:
        outcome = "refused"
    except Exception:
        return "failed", traceback.format_exc()
    peak = tracemalloc.get_traced_memory()[1] - before
    if peak > BYTES_IN_ANY_CASE + BYTES_PER_BYTE * path.stat().st_size:
        return "failed", f"{peak} bytes for a file of {path.stat().st_size}"
    return outcome, ""


def resident_peak() -> int:
    """The peak memory of this process in bytes, or 0 where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fuzz(
    mutations: int,
    seed: int,
    read: Callable,
    error: type[Exception],
    keep: Path | None = None,
) -> dict:
    """Reads mutated files and counts what became of them."""
    seeds = make_seeds()
    random = np.random.default_rng(seed)
    outcomes = Counter()
    failures = []
    tracemalloc.start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for start in seeds:  # imports what is imported late
            path.write_bytes(start.make_file(start.data))
            read(path)
            path.unlink()
        resident = resident_peak()
        for number in range(mutations):
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            contents = mutate(random, seeds)
            path.write_bytes(contents)
            outcome, why = failure_of(path, read, error)
            outcomes[outcome] += 1
            if why:
                failures.append(f"mutation {number} of seed {seed}: {why}")
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{number}").write_bytes(contents)
            # A map of the old file may live on in an error's frames.
            path.unlink()
        faulthandler.cancel_dump_traceback_later()
        growth = resident_peak() - resident
    tracemalloc.stop()
    return {**outcomes, "resident_growth": growth, "failures": failures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    import_alone()
    from keras_metaformer.weights.files.errors import CheckpointError
    from keras_metaformer.weights.files.readers import read_checkpoint

    report = fuzz(
        options.mutations, options.seed, read_checkpoint, CheckpointError, options.keep
    )
    print(json.dumps(report, indent=1))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
