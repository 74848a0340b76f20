"""Every family side by side on the digits: accuracy, parameters, training time.

    python -m benchmarks.digits_families docs/families.md

Trains the small models of `keras-metaformer demo --family ...`, one after the other,
each in a process of its own, and writes the table between the two marks of the page.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scripts.page import around, replace

BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def measure(family: str, epochs: int, seed: int) -> dict[str, Any]:
    """Trains one model; returns what the table says of it."""
    import keras
    import numpy as np

    from keras_metaformer.data.digits import load_digits
    from keras_metaformer.demo.models import FAMILIES, build_model
    from keras_metaformer.demo.training import train

    keras.utils.set_random_seed(seed)
    digits = load_digits(seed=seed)
    model: Any = build_model(seed, family)
    wall, processor = time.perf_counter(), time.process_time()
    history = train(model, digits, epochs, seed)
    return {
        "title": FAMILIES[family][0],
        "accuracy": history["val_accuracy"][-1],
        "parameters": model.count_params(),
        "mixers": _mixers(model),
        "seconds": time.perf_counter() - wall,
        "processor_seconds": time.process_time() - processor,
        "backend": keras.backend.backend(),
        "held_out": int(np.size(digits.test_labels)),
    }


def _mixers(model: Any) -> str:
    """The classes of the token mixers, each once, in the order of the blocks."""
    names = []
    for layer in model.layers:
        if "block_" in layer.name:
            # A block without a channel mixer is its token mixing alone.
            step = getattr(layer, "token_mixing", layer)
            names.append(type(step.transform).__name__)
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names))


def measure_in_child(family: str, epochs: int, seed: int) -> dict[str, Any]:
    """`measure` in a fresh process, so that no family warms up another's library."""
    command = [sys.executable, "-m", "benchmarks.digits_families", "--measure", family]
    command += ["--epochs", str(epochs), "--seed", str(seed)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| family | token mixers | accuracy | parameters | training | processor time |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['title']} | {row['mixers']} | {row['accuracy']:.2%} | "
            f"{row['parameters']:,} | {row['seconds']:.0f} s | "
            f"{row['processor_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def conditions(rows: list[dict[str, Any]], epochs: int, seed: int) -> str:
    backend = rows[0]["backend"]
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}"
        for package in ("keras", backend, "numpy")
    )
    return (
        f"{epochs} epochs, seed {seed}, {rows[0]['held_out']} held-out digits; "
        f"{_processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"{versions}. Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    )


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, nargs="?", help="the page with the marks")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", help="some of them only")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure, options.epochs, options.seed)))
        return
    if options.page is None:
        parser.error("the page to write to is missing")

    from keras_metaformer.demo.models import FAMILIES

    before, after = around(options.page, BEGIN, END)
    rows = []
    for family in options.families or FAMILIES:
        rows.append(measure_in_child(family, options.epochs, options.seed))
        print(family, rows[-1], flush=True)
    text = f"{table(rows)}\n\n{conditions(rows, options.epochs, options.seed)}"
    replace(options.page, f"{before}\n\n{text}\n\n{after}")


if __name__ == "__main__":
    main()
