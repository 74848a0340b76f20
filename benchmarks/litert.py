"""Latency of our LiteRT files against Keras' own export, in one interleaved run.

    python -m benchmarks.litert ConvFormerS18 --csv times.csv --page docs/mobile.md

Both files have batch 1, the same static input and builtin operators only. "stock" is
what `model.export(format="litert")` gives for the model written with stock Keras
layers (`benchmarks.stock`), "tensorflow" our model in a `tf.function`
at batch 1, on all cores, and "products" a file with the matrix products of the model
and nothing else, below which only faster products could get. All take turns, so that
another load on the machine hits all alike; compare the rows of one run only. The
random weights do not change the times. The page gets its table between two marks.
"""

import argparse
import csv
import importlib.metadata
import io
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_metaformer as km
from benchmarks.environment import describe_environment
from benchmarks.matrix_products import MatrixProduct, matrix_products
from benchmarks.stock import stock_model
from keras_metaformer.export.convert import convert
from keras_metaformer.export.options import GraphOptions
from scripts.page import around, replace


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


def litert_call(content: bytes, threads: int, image: np.ndarray | None = None):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        random = np.random.default_rng(0).normal(size=details["shape"])
        value = random.astype("float32") if image is None else image
        interpreter.set_tensor(details["index"], value)
    return interpreter.invoke


def products_file(products: list[MatrixProduct]) -> bytes:
    """The products as 1x1 convolutions, or of two inputs where both are activations."""
    import tensorflow as tf

    lefts = [(1, p.batch, p.rows, p.inner) for p in products]
    rights = [(1, p.batch, p.inner, p.columns) for p in products]
    read = set(lefts) | {
        shape
        for shape, product in zip(rights, products, strict=True)
        if product.weight_is_activation
    }
    random = np.random.default_rng(0)

    @tf.function(
        input_signature=[
            {str(shape): tf.TensorSpec(shape, tf.float32) for shape in sorted(read)}
        ]
    )
    def compute(inputs):
        outputs = {}
        for index, (left, right, product) in enumerate(
            zip(lefts, rights, products, strict=True)
        ):
            if product.weight_is_activation:
                output = tf.matmul(inputs[str(left)], inputs[str(right)])
            else:
                kernel = random.normal(size=(1, 1, product.inner, product.columns))
                output = tf.nn.conv2d(
                    inputs[str(left)], tf.constant(kernel, tf.float32), 1, "VALID"
                )
            outputs[str(index)] = output
        return outputs

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [compute.get_concrete_function()], compute
    )
    return converter.convert()


def tensorflow_call(model: keras.Model, image: np.ndarray):
    import tensorflow as tf

    compiled = tf.function(lambda x: model(x, training=False))
    tensor = tf.constant(image)
    return lambda: compiled(tensor).numpy()


def measure(name: str, runs: int) -> list[dict]:
    model = getattr(km, name)(weights=None)
    shape = model.input_shape[1:]
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    plain = stock_model(model)
    with tempfile.TemporaryDirectory() as folder:
        stock = keras_export(plain, Path(folder))
    products = products_file(matrix_products(plain, 1))
    ours = convert(model, GraphOptions(shape))
    calls = {
        (file, threads): litert_call(content, threads, image)
        for file, content in (("stock", stock), ("ours", ours))
        for threads in (1, 2)
    }
    for threads in (1, 2):
        calls["products", threads] = litert_call(products, threads)
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
                "products_ms": round(medians["products", threads], 2),
                "tensorflow_ms": tensorflow and round(tensorflow, 2),
                "runs": runs,
                **describe_environment(),
                "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
                "keras": keras.__version__,
                "tensorflow": importlib.metadata.version("tensorflow"),
            }
        )
    return rows


START = "<!-- latency: written by benchmarks/litert.py -->\n"
END = "<!-- end of the latency -->\n"


def section(rows: list[dict]) -> str:
    """The table of the page and what it was measured on."""
    lines = [
        "| model | threads | this file, ms | stock, ms | ratio | products, ms | "
        "TensorFlow, ms |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *(
            f"| {row['model']} | {row['threads']} | {row['ours_ms']} | "
            f"{row['stock_ms']} | {row['paired_ratio']} | {row['products_ms']} | "
            f"{row['tensorflow_ms'] or ''} |"
            for row in rows
        ),
    ]
    first = rows[0]
    return "\n".join(lines) + (
        f"\n\nMedians of {first['runs']} interleaved runs, float32, batch 1, "
        f"{first['date'][:10]}, revision {first['revision']}; {first['cpu']}, "
        f"{first['cores']} cores; ai-edge-litert {first['ai_edge_litert']}, keras "
        f"{first['keras']}, tensorflow {first['tensorflow']}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="constructors, such as CAFormerS18")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--csv", type=Path, help="where to write all numbers")
    parser.add_argument("--page", type=Path, help="a page with the two marks")
    arguments = parser.parse_args()
    if arguments.page:
        before, after = around(arguments.page, START, END)
    rows = []
    for name in arguments.models:
        rows += measure(name, arguments.runs)
        for row in rows[-2:]:
            shown = (
                "model threads ours_ms stock_ms ratio paired_ratio products_ms "
                "tensorflow_ms"
            )
            print({column: row[column] for column in shown.split()}, flush=True)
    if arguments.csv:
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace(arguments.csv, table.getvalue())
    if arguments.page:
        replace(arguments.page, f"{before}\n{section(rows)}\n{after}")


if __name__ == "__main__":
    main()
