"""Runs `LiteRTModel` on mutated `.tflite` files: each is run or refused, cheaply.

    python tests/export/fuzz_tflite.py --structural 20000 --bytes 100000 --seed 0

A structural mutant has other values, indices, shapes or lists in the tables of a whole
file; a byte mutant has other bytes. Mutants are run in a child process. One fails if it
raises anything but ModelFileError, ends the process, takes more than 60 s or more
memory than ten times the file (and `NOISE_BYTES`, which loading any file takes). The
same seed makes the same files; those that fail are kept in the folder given by --keep.
"""

import argparse
import copy
import faulthandler
import json
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HANG_SECONDS = 60
NOISE_BYTES = 8 << 20
INTERESTING = [-(2**31), -129, -2, -1, 0, 1, 2, 3, 7, 127, 255, 4096, 2**16, 2**31 - 1]
KINDS = ("structural", "bytes")


# Mutants ---------------------------------------------------------------------------


def mutate_structure(random: np.random.Generator, content: bytes) -> bytes:
    """The file with one to three changes in its tables, written anew."""
    from keras_metaformer_lite.litert.flatbuffer import TFLiteFile

    archive = content[content.rindex(b"PK\3\4") :] if b"PK\3\4" in content else b""
    while True:
        file = TFLiteFile(content)
        try:
            for _ in range(int(random.geometric(0.7))):
                _change(random, file.model)
            return file.content() + archive
        except (TypeError, ValueError, AttributeError, OverflowError, LookupError):
            continue  # What the writer does not take, or what a change has left.
        except Exception as error:  # Its errors have no common class.
            if type(error).__module__.split(".")[0] not in ("struct", "flatbuffers"):
                raise


def _change(random: np.random.Generator, model: Any) -> None:
    """Change one field of one table, of each kind of table as often."""
    tables: dict[str, list[Any]] = {}
    open_tables = [model]
    while open_tables:
        table = open_tables.pop()
        if vars(table):  # Not options without settings.
            tables.setdefault(type(table).__name__, []).append(table)
        for value in vars(table).values():
            items = value if isinstance(value, list) else [value]
            open_tables += [each for each in items if hasattr(each, "Pack")]
    # Operators and tensors are where most can go wrong.
    names = [*tables, *(["OperatorT", "TensorT"] * 4)]
    table = _one_of(random, tables[_one_of(random, names)])
    name = _one_of(random, list(vars(table)))
    setattr(table, name, _other(random, getattr(table, name), model))


def _one_of(random: np.random.Generator, items: list[Any]) -> Any:
    return items[int(random.integers(len(items)))]


def _number(random: np.random.Generator, old: int) -> int:
    if random.random() < 0.5:
        return int(old) + int(_one_of(random, [-2, -1, 1, 2]))
    return int(_one_of(random, INTERESTING))


def _other(random: np.random.Generator, value: Any, model: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return not value
    if isinstance(value, (int, np.integer)):
        return _number(random, int(value))
    if isinstance(value, float):
        return float(_one_of(random, [0.0, -1.0, 1e-38, 1e38, np.inf, np.nan]))
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        return _other_data(random, value)
    if isinstance(value, np.ndarray):
        return _other_numbers(random, value)
    if isinstance(value, list) and value:
        return _other_list(random, value)
    if isinstance(value, bytes):
        return _one_of(random, [None, b"", value[:-1], value + b"\xff", b"x" * 5000])
    if hasattr(value, "Pack") or value is None:
        graph = model.subgraphs[0]
        # Nothing, or the options or quantisation of another.
        table = _one_of(random, _one_of(random, [graph.operators, graph.tensors]))
        others = [each for each in vars(table).values() if hasattr(each, "Pack")]
        # A copy, so that no table comes to be within itself.
        chosen = _one_of(random, [None, np.array([0], "int32"), *others])
        return copy.deepcopy(chosen)
    return value


def _other_numbers(random: np.random.Generator, value: np.ndarray) -> np.ndarray:
    value = value.copy()
    match random.integers(5):
        case 0:
            return value[: int(random.integers(len(value) + 1))]
        case 1:
            return np.append(value, value[-1:])
        case 2:
            return random.permutation(value)
        case _ if len(value) and value.dtype.kind == "i":
            place = int(random.integers(len(value)))
            limits = np.iinfo(value.dtype)
            number = _number(random, int(value[place]))
            value[place] = np.clip(number, limits.min, limits.max)
        case _ if len(value):
            place = int(random.integers(len(value)))
            value[place] = _one_of(random, [0.0, -1.0, 1e-38, 1e38, np.inf, np.nan])
    return value


def _other_data(random: np.random.Generator, value: np.ndarray) -> np.ndarray | None:
    """Weights, or numbers of operands: shapes, axes, paddings."""
    value = value.copy()
    match random.integers(4):
        case 0:
            return _one_of(random, [None, value[: len(value) // 2], value[:0]])
        case 1:
            return np.append(value, value[-4:])
        case _ if len(value) >= 4:
            numbers = value[: len(value) // 4 * 4].view("<i4")
            place = int(random.integers(len(numbers)))
            number = _number(random, int(numbers[place]))
            numbers[place] = np.clip(number, -(2**31), 2**31 - 1)
    return value


def _other_list(random: np.random.Generator, value: list[Any]) -> list[Any]:
    value = list(value)
    first, second = (int(place) for place in random.integers(len(value), size=2))
    match random.integers(4):
        case 0:
            del value[first]
        case 1:
            value.insert(first, value[second])
        case 2:
            value[first], value[second] = value[second], value[first]
        case _:
            value = value * 50 if len(value) < 50 else value[: first + 1]
    return value


def mutate_bytes(random: np.random.Generator, content: bytes) -> bytes:
    """The file with one to some changes of its bytes, half of them near an end."""
    data = bytearray(content)
    for _ in range(int(random.geometric(0.5))):
        size = len(data)
        if not size:
            break
        place = int(random.integers(size))
        if random.random() < 0.5:
            place = int(size * random.beta(0.3, 0.3)) % size
        length = int(min(random.geometric(0.1), 400))
        match random.integers(7):
            case 0:
                data[place] ^= 1 << int(random.integers(8))
            case 1:
                data[place] = int(random.integers(256))
            case 2:
                width = int(_one_of(random, [1, 2, 4, 8]))
                number = int(_one_of(random, INTERESTING)) % 2 ** (8 * width)
                data[place : place + width] = number.to_bytes(width, "little")
            case 3:
                # What refers to other places lies at multiples of four.
                place = place // 4 * 4
                other = int(random.integers(max(size // 4, 1))) * 4
                data[place : place + 4] = data[other : other + 4]
            case 4:
                del data[place : place + length]
            case 5:
                data[place:place] = random.bytes(length)
            case 6:
                if random.random() < 0.3:
                    del data[place:]
    return bytes(data)


# The child ---------------------------------------------------------------------------


def failure_of(path: Path, run: Callable, error: type[Exception]) -> tuple[str, str]:
    """Returns ("run" or "refused", "") or ("failed", why)."""
    memory = _Memory()
    try:
        run(path)
        outcome = "run"
    except error:
        outcome = "refused"
    except Exception:
        return "failed", traceback.format_exc()
    grown = memory.grown()
    if grown > NOISE_BYTES + 10 * path.stat().st_size:
        return "failed", f"{grown} bytes for a file of {path.stat().st_size}"
    return outcome, ""


class _Memory:
    """How much more memory the process took since, where Linux says so."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Forget the peak.
            self._before = self._bytes("VmRSS")
        except OSError:
            self._before = None

    def _bytes(self, name: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return 1024 * int(line.split()[1])
        raise OSError(name)

    def grown(self) -> int:
        """Bytes between the peak and what was there before."""
        return 0 if self._before is None else self._bytes("VmHWM") - self._before


def run_model(path: Path) -> None:
    """Load a file and run it on two images."""
    from keras_metaformer.export import LiteRTModel

    model = LiteRTModel(path)
    image = np.random.default_rng(0).uniform(0, 255, model.input_shape)
    model.predict(np.stack([image, 0 * image]).astype("float32"))


def mutant(seeds: list[bytes], kind: str, seed: int, number: int) -> bytes:
    """The mutant of a number, whatever was made before."""
    random = np.random.default_rng([seed, KINDS.index(kind), number])
    mutate = mutate_structure if kind == "structural" else mutate_bytes
    return mutate(random, seeds[int(random.integers(len(seeds)))])


def run_mutants(
    seeds: list[bytes], kind: str, seed: int, start: int, end: int, run: Callable
) -> None:
    """Print a line before and after each mutant."""
    from keras_metaformer.export import ModelFileError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        for content in seeds:  # Imports what is imported late.
            path.write_bytes(content)
            run(path)
        for number in range(start, end):
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            content = mutant(seeds, kind, seed, number)
            path.write_bytes(content)
            print(json.dumps({"number": number}), flush=True)
            outcome, why = failure_of(path, run, ModelFileError)
            print(json.dumps({"outcome": outcome, "why": why}), flush=True)


# The parent --------------------------------------------------------------------------


def fuzz(
    folder: Path, kind: str, mutants: int, seed: int, start: int = 0
) -> dict[str, Any]:
    """Run mutants of the files of a folder, and count what became of them."""
    outcomes: Counter[str] = Counter()
    failures = []
    while start < mutants:
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--seeds",
            str(folder),
        ]
        command += ["--child", kind, str(start), str(mutants), "--seed", str(seed)]
        number = -1
        with (
            tempfile.TemporaryFile() as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8"
            ) as child,
        ):
            assert child.stdout is not None
            answered = True
            for line in child.stdout:
                said = json.loads(line)
                answered = "outcome" in said
                if not answered:
                    number = said["number"]
                    continue
                outcomes[said["outcome"]] += 1
                if number % 1000 == 0:
                    print(f"{kind} {number}: {dict(outcomes)}", file=sys.stderr)
                if said["why"]:
                    failures.append(f"{kind} {number}: {said['why']}")
                    print(failures[-1], file=sys.stderr, flush=True)
            status = child.wait()
            if answered and status == 0:
                break
            stderr.seek(0)
            words = stderr.read().decode(errors="replace")[-2000:]
            if number < start and answered:  # It did not even begin.
                raise RuntimeError(f"the child ended with {status}: {words}")
            outcomes["crashed"] += 1
            failures.append(f"{kind} {number}: status {status}: {words}")
            print(failures[-1], file=sys.stderr, flush=True)
            start = number + 1
    return {**outcomes, "failures": failures}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--structural", type=int, default=20_000)
    parser.add_argument("--bytes", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first mutant")
    parser.add_argument("--seeds", type=Path, help="a folder of .tflite files")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))
    with tempfile.TemporaryDirectory() as made:
        folder = options.seeds
        if folder is None:
            from tests.export.tflite_seeds import make_seeds

            folder = Path(made)
            make_seeds(folder)
        seeds = [path.read_bytes() for path in sorted(folder.glob("*.tflite"))]
        if options.child:
            kind, start, end = options.child
            run_mutants(seeds, kind, options.seed, int(start), int(end), run_model)
            return 0
        failed = False
        for kind, number in zip(
            KINDS, (options.structural, options.bytes), strict=True
        ):
            report = fuzz(folder, kind, number, options.seed, options.start)
            print(json.dumps({kind: report}, indent=1), flush=True)
            failed = failed or bool(report["failures"])
            for failure in report["failures"] if options.keep else []:
                number = int(failure.split()[1].rstrip(":"))
                options.keep.mkdir(parents=True, exist_ok=True)
                file = options.keep / f"{kind}-{options.seed}-{number}.tflite"
                file.write_bytes(mutant(seeds, kind, options.seed, number))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
