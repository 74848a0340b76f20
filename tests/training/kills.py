"""A run that is killed again and again, beside one that is not.

Run as `python -m tests.training.kills --kills 20 --folder /tmp/kills`, with
KERAS_BACKEND set. Prints one line of JSON: at which epoch and step the checkpoint was
after each kill, and whether the two runs end alike, bit for bit.
"""

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_metaformer_lite.processes import python_command
from tests.training.photographs import SETTINGS, small_model, write_digits

#: The command, as where no other backend is installed.
MAIN = """
from tests.training import without_tensorflow
without_tensorflow.hide()
from keras_metaformer_lite.cli import main
main()
"""
_ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 600
#: So many that twenty kills, each after some steps, find the run still going.
EPOCHS = 16


def command(folder: Path, output: Path, epochs: int, workers: int) -> list[str]:
    settings = {**SETTINGS, "mixup_alpha": 0.2, "random_erasing": 0.3}
    return [
        *python_command("-c", MAIN),
        "train",
        str(folder / "photographs"),
        *("--model", str(folder / "small.keras")),
        *("--output", str(output)),
        *("--epochs", str(epochs), "--batch", "8", "--accumulate", "2"),
        *("--checkpoint-every", "1", "--workers", str(workers)),
        *(
            part
            for key, each in settings.items()
            for part in ("--set", f"{key}={each}")
        ),
    ]


def position(output: Path) -> tuple[int, int] | None:
    """Epoch and step of the checkpoint, which must be readable at any time."""
    from keras_metaformer.training.checkpoint import read_about

    path = output / "checkpoint.safetensors"
    if not path.exists():
        return None
    about = read_about(path)
    return about["epoch"], about["step"]


def environment(backend: str) -> dict[str, str]:
    """That of a process which runs `MAIN`."""
    return {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.fspath(_ROOT)}


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, as a shell gives; its workers are in it.
        start_new_session=True,
        env=environment(os.environ["KERAS_BACKEND"]),
    )


def wait_for_progress(process: subprocess.Popen, output: Path) -> float:
    """Waits until a checkpoint is written, or the end; returns the seconds."""
    begun, before = time.monotonic(), position(output)
    while position(output) == before and process.poll() is None:
        assert time.monotonic() - begun < _SECONDS
        time.sleep(0.01)
    return time.monotonic() - begun


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=_SECONDS)
    assert process.returncode == 0, errors[-3000:]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a run takes that nobody disturbs, in seconds.

    Attributes:
        start: from the start of the process to its first checkpoint.
        steps: from there to its end.
    """

    start: float
    steps: float


def undisturbed(folder: Path, output: Path, epochs: int) -> Pace:
    process = start(command(folder, output, epochs, workers=0))
    until_first = wait_for_progress(process, output)
    begun = time.monotonic()
    finish(process)
    return Pace(until_first, time.monotonic() - begun)


def disturbed(
    folder: Path,
    output: Path,
    epochs: int,
    kills: int,
    chance: random.Random,
    numbers: list[int],
    pace: Pace,
) -> list[Any]:
    """Kills a run at random moments, then lets it end.

    One kill in four comes anywhere in the start of the process, the others after it
    has gone on: in a step, in a checkpoint, in the validation, in a model's file.
    """
    places = []
    for kill in range(kills):
        process = start(command(folder, output, epochs, workers=kill % 3))
        number = numbers[kill % len(numbers)]
        # Before that, Ctrl-C and SIGTERM end Python as they do without training.
        if number == signal.SIGKILL and kill % 4 == 3:
            time.sleep(chance.uniform(0.0, pace.start))
        else:
            wait_for_progress(process, output)
            time.sleep(chance.uniform(0.0, pace.steps / kills / 2))
        if process.poll() is None:
            # Ctrl-C reaches all of the group, the others the process alone.
            if number == signal.SIGINT:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        _, errors = process.communicate(timeout=_SECONDS)
        assert process.returncode in (-number, 128 + number, 0), errors[-3000:]
        if process.returncode == 0:
            break  # it was faster
        places.append(position(output))
    finish(start(command(folder, output, epochs, workers=0)))
    return places


def differences(first: Path, second: Path) -> list[str]:
    """What is not the same in the checkpoints and logs of two runs."""
    from keras_metaformer.training.checkpoint import read_state

    (arrays, about), (others, other) = (
        read_state(folder / "checkpoint.safetensors") for folder in (first, second)
    )
    found = [name for name in about | other if about.get(name) != other.get(name)]
    found += sorted(arrays.keys() ^ others.keys())
    found += [
        name
        for name in arrays.keys() & others.keys()
        if arrays[name].tobytes() != others[name].tobytes()
    ]
    for name in ("log.csv", "config.json", "evaluation.json"):
        if (first / name).read_bytes() != (second / name).read_bytes():
            found.append(name)
    return found


def weights_differ(first: Path, second: Path) -> list[str]:
    """Which of the models that two runs saved differ."""
    import keras

    found = []
    for path in sorted(first.glob("*.keras")):
        models: list[Any] = [
            keras.saving.load_model(folder / path.name) for folder in (first, second)
        ]
        weights = [
            [keras.ops.convert_to_numpy(each) for each in model.weights]
            for model in models
        ]
        if not all(map(np.array_equal, *weights)):
            found.append(path.name)
    return found


def compare(
    folder: Path, kills: int, epochs: int, seed: int, numbers: list[int]
) -> dict[str, Any]:
    """Trains undisturbed, and under so many signals, in as many runs as that takes."""
    write_digits(folder / "photographs", classes=3, each=16)
    small_model(folder / "small.keras")
    whole = folder / "whole"
    pace = undisturbed(folder, whole, epochs)
    chance = random.Random(seed)
    places: list[list[Any]] = []
    different: list[str] = []
    left: list[str] = []
    while (missing := kills - sum(map(len, places))) > 0:
        killed = folder / f"killed_{len(places)}"
        assert len(places) < kills, "the runs end before they can be killed"
        places.append(disturbed(folder, killed, epochs, missing, chance, numbers, pace))
        different += differences(whole, killed) + weights_differ(whole, killed)
        left += [path.name for path in killed.glob(".*")]
    return {
        "backend": os.environ["KERAS_BACKEND"],
        "kills": sum(map(len, places)),
        "checkpoints after the kills": places,
        "different": different,
        "left behind": left,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    found = compare(
        arguments.folder,
        arguments.kills,
        arguments.epochs,
        arguments.seed,
        [signal.SIGKILL],
    )
    print(json.dumps(found))
    return int(bool(found["different"]))


if __name__ == "__main__":
    sys.exit(main())
