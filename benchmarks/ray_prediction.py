"""Images a second of `predict --ray` beside the plain `predict`, on the same cores.

Each runs as a command, on few and on many JPEG files of 500 x 375 pixels: what starting
takes cancels in the difference. They take turns. Prints both rates and their ratio of
each turn as JSON.

    KERAS_BACKEND=torch python -m benchmarks.ray_prediction --images 1200 --actors 2
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.input_pipeline import write_images
from keras_metaformer_lite.processes import run_python

_COMMAND = "from keras_metaformer_lite.cli import main; main()"


def seconds_of(arguments: list[str]) -> float:
    """How long the command takes."""
    start = time.perf_counter()
    run_python("-c", _COMMAND, "predict", *arguments).check_returncode()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="PoolFormerV2S12")
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    many, few = arguments.images, arguments.images // 4
    part = max(1, few // arguments.actors)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for images in ("made", "few", "many"):
            (folder / images).mkdir()
        write_images(folder / "made", many)
        files = sorted((folder / "made").rglob("*.jpg"))
        for images, number in (("few", few), ("many", many)):
            for file in files[:number]:
                os.link(file, folder / images / file.name)
        import keras_metaformer as km

        model = folder / "model.keras"
        getattr(km, arguments.model)(weights=None, include_preprocessing=True).save(
            model
        )
        forms = {
            "plain": [],
            "ray": ["--ray", "--actors", str(arguments.actors), "--part", str(part)],
        }
        ratios = []
        for turn in range(arguments.turns):
            rates = {}
            for form in list(forms) if turn % 2 == 0 else list(forms)[::-1]:
                seconds = {}
                for images in ("few", "many"):
                    output = folder / f"{form}-{images}-{turn}"
                    end = "" if form == "ray" else ".jsonl"
                    seconds[images] = seconds_of(
                        [
                            str(folder / images),
                            *("--model", str(model), "--output", f"{output}{end}"),
                            *forms[form],
                        ]
                    )
                rates[form] = (many - few) / (seconds["many"] - seconds["few"])
            ratios.append(rates["ray"] / rates["plain"])
            found = {form: round(rate, 1) for form, rate in rates.items()}
            print(json.dumps({**found, "ratio": round(ratios[-1], 3)}), flush=True)
    print(json.dumps({"ratio": round(float(np.median(ratios)), 3)}))


if __name__ == "__main__":
    main()
