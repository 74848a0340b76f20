"""Peak memory and time of a training step, with gradient checkpointing and without.

    python -m benchmarks.training_memory CAFormerB36 --resolution 384 --batch 1

Each setting runs in a process of its own, whose largest resident memory (frameworks,
weights and optimizer included) is read at the end. SGD with momentum, float32. On
Linux; the backend is that of KERAS_BACKEND.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def measure(name: str, resolution: int, batch: int, again: bool) -> dict:
    import keras
    import numpy as np

    import keras_metaformer as km

    model = getattr(km, name)(
        weights=None,
        input_shape=(resolution, resolution, 3),
        gradient_checkpointing=again,
    )
    built = _peak_gib()
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    images = np.zeros((batch, resolution, resolution, 3), "float32")
    targets = np.eye(1000, dtype="float32")[np.zeros(batch, int)]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        model.train_on_batch(images, targets)
        times.append(time.perf_counter() - start)
    return {
        "model": name,
        "backend": keras.backend.backend(),
        "resolution": resolution,
        "batch": batch,
        "gradient_checkpointing": again,
        "built_gib": built,
        "peak_gib": _peak_gib(),
        "step_seconds": round(min(times[1:]), 2),
    }


def _peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="constructors, such as CAFormerB36")
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--one", choices=["on", "off"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in arguments.models:
        if arguments.one:
            row = measure(
                name, arguments.resolution, arguments.batch, arguments.one == "on"
            )
            print(json.dumps(row))
            continue
        for setting in ("off", "on"):
            command = [
                sys.executable,
                "-m",
                "benchmarks.training_memory",
                name,
                "--one",
                setting,
            ]
            command += ["--resolution", str(arguments.resolution)]
            command += ["--batch", str(arguments.batch)]
            result = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ
            )
            print(result.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
