"""How long a constructor takes to load published weights, and how much memory.

    KERAS_BACKEND=torch python benchmarks/weight_loading.py CAFormerS18 MLPMixerL16

Each row is a process of its own that builds one model from a file placed in a cache by
hand (random weights in the published naming, so nothing is downloaded): twice with its
weights, which shows what a first use does besides, and once without. Seconds and
processor seconds are of the constructor alone, memory is the process' peak.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any


def place(name: str) -> None:
    """Writes a file in the published naming where the cache looks for it."""
    import numpy as np
    import safetensors.numpy

    import keras_metaformer as km
    from keras_metaformer_lite.weights import cache, catalogue

    row = catalogue.find(name, catalogue.default_tag(name) or "")
    size = row.resolution
    model = getattr(km, name)(
        weights=None, classes=row.classes, input_shape=(size, size, 3)
    )
    path = cache.hand_placed_path(row)
    path.parent.mkdir(parents=True)
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(km.to_state_dict(model, "timm"), path)
    elif path.suffix == ".npz":
        arrays: Any = km.to_state_dict(model, row.naming)
        np.savez(path, **arrays)
    else:
        raise SystemExit(f"{name} is published as {path.suffix}, which is not written")


def measure(name: str, weights: str) -> None:
    """Builds the model once and prints what that took."""
    import keras_metaformer as km
    from keras_metaformer_lite.weights import catalogue

    tag = catalogue.default_tag(name) if weights == "published" else None
    build = getattr(km, name)  # imports the backend
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    build(weights=tag)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps([seconds, processor, after.ru_maxrss / 1024]))


def main(names: list[str]) -> None:
    """Prints a table."""
    print(f"{'model':16}{'weights':18}{'s':>8}{'CPU s':>8}{'peak MB':>9}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {
                "KERAS_METAFORMER_CACHE": folder,
                "KERAS_METAFORMER_OFFLINE": "1",
            }

            def run(*arguments: str, environment=environment) -> str:
                command = [sys.executable, __file__, *arguments]
                done = subprocess.run(
                    command, env=environment, check=True, capture_output=True
                )
                return done.stdout.decode("utf-8")

            run("--place", name)
            for label in ("published", "published", "none"):
                output = run("--measure", name, label)
                seconds, processor, peak = json.loads(output.splitlines()[-1])
                print(
                    f"{name:16}{label:18}{seconds:8.2f}{processor:8.2f}{peak:9.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1] == "--place":
        place(sys.argv[2])
    elif sys.argv[1] == "--measure":
        measure(*sys.argv[2:])
    else:
        main(sys.argv[1:])
