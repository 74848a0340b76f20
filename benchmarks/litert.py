"""Latency of our LiteRT files against Keras' own export, in one interleaved run.

    python benchmarks/litert.py ConvFormerS18 CAFormerS18 --csv results/litert.csv

Both files have batch 1, the same static input and builtin operators only. "stock" is
what `model.export(format="litert")` gives for the model written with stock Keras
layers (`keras_metaformer.benchmark.stock`), "tensorflow" our model in a `tf.function`
at batch 1, on all cores. All take turns, so that another load on the machine hits all
alike; compare the rows of one run only. The random weights do not change the times.
"""

import argparse
import csv
import importlib.metadata
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_metaformer as km
from keras_metaformer.benchmark.environment import describe_environment
from keras_metaformer.benchmark.stock import stock_model
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


def litert_call(content: bytes, threads: int, image: np.ndarray):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    (details,) = interpreter.get_input_details()
    interpreter.set_tensor(details["index"], image)
    return interpreter.invoke


def tensorflow_call(model: keras.Model, image: np.ndarray):
    import tensorflow as tf

    compiled = tf.function(lambda x: model(x, training=False))
    tensor = tf.constant(image)
    return lambda: compiled(tensor).numpy()


def measure(name: str, runs: int) -> list[dict]:
    model = getattr(km, name)(weights=None)
    shape = model.input_shape[1:]
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        stock = keras_export(stock_model(model), Path(folder))
    ours = convert(model, GraphOptions(shape))
    calls = {
        (file, threads): litert_call(content, threads, image)
        for file, content in (("stock", stock), ("ours", ours))
        for threads in (1, 2)
    }
    calls["tensorflow", 2] = tensorflow_call(model, image)
    times: dict[tuple, list[float]] = {key: [] for key in calls}
    for _ in range(runs):
        for key, call in calls.items():
            call()  # Untimed, as the one before used the caches for something else.
            start = time.perf_counter()
            call()
            times[key].append(1e3 * (time.perf_counter() - start))
    medians = {key: statistics.median(values) for key, values in times.items()}
    rows = []
    for threads in (1, 2):
        paired = [
            mine / theirs
            for mine, theirs in zip(
                times["ours", threads], times["stock", threads], strict=True
            )
        ]
        tensorflow = medians.get(("tensorflow", threads))
        rows.append(
            {
                "model": name,
                "threads": threads,
                "ours_ms": round(medians["ours", threads], 2),
                "stock_ms": round(medians["stock", threads], 2),
                "ratio": round(medians["ours", threads] / medians["stock", threads], 3),
                "paired_ratio": round(statistics.median(paired), 3),
                "tensorflow_ms": tensorflow and round(tensorflow, 2),
                "runs": runs,
                **describe_environment(),
                "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
                "keras": keras.__version__,
                "tensorflow": importlib.metadata.version("tensorflow"),
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
            shown = "model threads ours_ms stock_ms ratio paired_ratio tensorflow_ms"
            print({column: row[column] for column in shown.split()}, flush=True)
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
