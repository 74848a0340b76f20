"""Latency of our LiteRT files against Keras' own export, in one interleaved run.

    python benchmarks/litert.py ConvFormerS18 CAFormerS18 --csv results/litert.csv

Both files have batch 1, the same static input and builtin operators only. "Keras" is
what `model.export(format="litert")` gives for the model as it is. The runs of all
files and thread numbers take turns, so that another load on the machine hits all
alike; compare the rows of one run only. The random weights do not change the times.
"""

import argparse
import csv
import importlib.metadata
import platform
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_metaformer as km
from keras_metaformer.export.convert import GraphOptions, convert


def keras_export(model: keras.Model, folder: Path) -> bytes:
    import tensorflow as tf

    path = folder / "keras.tflite"
    model.export(
        path,
        format="litert",
        verbose=False,
        input_signature=[
            keras.InputSpec(
                shape=(1, *model.input_shape[1:]), dtype="float32", name="image"
            )
        ],
        target_spec={"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]},
    )
    return path.read_bytes()


def measure(name: str, runs: int) -> list[dict]:
    from ai_edge_litert.interpreter import Interpreter

    model = getattr(km, name)(weights=None)
    shape = model.input_shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "keras": keras_export(model, Path(folder)),
            "keras_metaformer": convert(model, GraphOptions(shape)),
        }
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    interpreters = {}
    for file, content in files.items():
        for threads in (1, 2):
            interpreter = Interpreter(model_content=content, num_threads=threads)
            interpreter.allocate_tensors()
            (details,) = interpreter.get_input_details()
            interpreter.set_tensor(details["index"], image)
            interpreters[file, threads] = interpreter
    times: dict[tuple, list[float]] = {key: [] for key in interpreters}
    for run in range(runs + 1):  # The first run warms up.
        for key, interpreter in interpreters.items():
            start = time.perf_counter()
            interpreter.invoke()
            if run:
                times[key].append(1e3 * (time.perf_counter() - start))
    rows = []
    for threads in (1, 2):
        medians, minima = (
            {file: function(times[file, threads]) for file in files}
            for function in (statistics.median, min)
        )
        rows.append(
            {
                "model": name,
                "threads": threads,
                "keras_ms": round(medians["keras"], 2),
                "keras_metaformer_ms": round(medians["keras_metaformer"], 2),
                "ratio": round(medians["keras_metaformer"] / medians["keras"], 3),
                "ratio_of_fastest": round(
                    minima["keras_metaformer"] / minima["keras"], 3
                ),
                "machine": platform.processor() or platform.machine(),
                "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
                "keras": keras.__version__,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="constructors, such as CAFormerS18")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in arguments.models:
        rows += measure(name, arguments.runs)
        for row in rows[-2:]:
            print(row)
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
