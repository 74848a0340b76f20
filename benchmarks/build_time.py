"""Prints how long each constructor takes to build its model, without loading weights.

Run: KERAS_BACKEND=jax python -m benchmarks.build_time [PATTERN]
"""

import argparse
import gc
import time

import keras

import keras_metaformer as km
from keras_metaformer.models import families


def build_seconds(name: str) -> tuple[float, int]:
    """Seconds to build the model, and its number of weights."""
    start = time.perf_counter()
    model = families.get(name).constructor(weights=None)
    seconds = time.perf_counter() - start
    parameters = model.count_params()
    del model
    keras.backend.clear_session()
    gc.collect()
    return seconds, parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="such as 'caformer*'")
    names = km.list_models(parser.parse_args().pattern)
    if not names:
        raise SystemExit("No model matches the pattern.")
    build_seconds(names[0])  # The first model pays for what the backend sets up.
    print(f"Keras {keras.__version__}, {keras.backend.backend()}")
    print(f"{'model':<20}{'parameters':>14}{'seconds':>10}")
    for name in names:
        seconds, parameters = build_seconds(name)
        print(f"{name:<20}{parameters:>14,}{seconds:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
