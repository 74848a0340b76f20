"""The input pipeline beside timm's loader, and beside a model that is trained.

    python benchmarks/make_peers.py --torchvision
    python -m benchmarks.input_pipeline

Files of 500 x 375 pixels, cut out of the package's photographs, go through the
published augmentation of the MetaFormer baselines at 224 (random resized crop with
random interpolation, flip, rand-m9-mstd0.5-inc1, mixup and cutmix, random erasing,
normalisation), in batches. Each contender is a process with as many workers; they take
turns, and a turn is timed after a first epoch. Processor seconds are those of the
process and of its workers together, so that images for each of them are images a second
and a core, whatever else the machine does. Linux only: they are read from /proc.

`--model CAFormerS18` is a contender too: what its training consumes, by
`train_on_batch` in batches of 8, on the backend of KERAS_BACKEND. `--csv` keeps every
turn, with the machine and the date.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.environment import describe_environment

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, SIZE = 500, 375, 224
CLASSES = 10


def write_images(folder: Path, number: int) -> None:
    """JPEG files in class folders, cut out of the package's photographs."""
    import numpy as np

    from keras_metaformer_lite.examples import photograph_files
    from keras_metaformer_lite.images import load_image

    random = np.random.default_rng(0)
    photographs = [load_image(path) for path in photograph_files()]
    for index in range(number):
        image = photographs[index % len(photographs)]
        width = int(min(image.width, image.height * 4 / 3) * random.uniform(0.5, 1))
        height = width * 3 // 4
        left = int(random.integers(0, image.width - width + 1))
        top = int(random.integers(0, image.height - height + 1))
        path = folder / f"class_{index % CLASSES}" / f"{index:05}.jpg"
        path.parent.mkdir(exist_ok=True)
        cut = image.crop((left, top, left + width, top + height))
        cut.resize((WIDTH, HEIGHT)).save(path, quality=90)


def processor_seconds() -> float:
    """Of this process and all below it, so far."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # It has ended.
            continue
        parents[int(entry.name)] = int(fields[1])
        ticks = sum(map(int, fields[11:15]))
        seconds[int(entry.name)] = ticks / os.sysconf("SC_CLK_TCK")
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        parent = waiting.pop()
        total += seconds.get(parent, 0.0)
        waiting += [child for child, above in parents.items() if above == parent]
    return total


def our_epochs(folder: Path, batch: int, workers: int) -> Callable[[int], Iterator]:
    """Ours: an epoch's batches by its number."""
    from keras_metaformer_lite.data.augmentation import Augmentation
    from keras_metaformer_lite.data.batches import TrainingBatches
    from keras_metaformer_lite.data.sources import open_source
    from keras_metaformer_lite.description import ImageDescription
    from keras_metaformer_lite.images import EvaluationTransform

    description = ImageDescription(EvaluationTransform(SIZE))
    source = open_source(folder)
    return TrainingBatches(
        source, description, Augmentation(), batch, workers=workers
    ).epoch


def timm_epochs(folder: Path, batch: int, workers: int) -> Callable[[int], Iterator]:
    """timm's, with the arguments of its train.py for the published script."""
    import torch

    if torch.version.cuda is None:
        # The published torchvision has compiled operators for torch with CUDA. None is
        # used here, but two are asked for by name at import.
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float t) -> Tensor",
            )
    from timm.data import (  # pyright: ignore[reportMissingImports]
        FastCollateMixup,
        create_dataset,
        create_loader,
    )

    torch.set_num_threads(1)
    mixup = FastCollateMixup(
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        prob=1.0,
        switch_prob=0.5,
        mode="batch",
        label_smoothing=0.1,
        num_classes=CLASSES,
    )
    loader = create_loader(
        create_dataset("", root=str(folder)),
        input_size=(3, SIZE, SIZE),
        batch_size=batch,
        is_training=True,
        re_prob=0.25,
        re_mode="pixel",
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="random",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_workers=workers,
        collate_fn=mixup,
        device=torch.device("cpu"),
        pin_memory=False,
        persistent_workers=True,
    )
    return lambda epoch: iter(loader)


def model_epochs(name: str, batch: int, steps: int) -> Callable[[int], Iterator]:
    """Steps of training: the batches that they consume."""
    import numpy as np

    import keras_metaformer as km

    model = getattr(km, name)(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=CLASSES
    )
    model.compile(km.training.AdamW(1e-3), "categorical_crossentropy")
    images = np.random.default_rng(0).normal(size=(batch, SIZE, SIZE, 3))
    images = images.astype("float32")
    targets = np.eye(CLASSES, dtype="float32")[np.arange(batch) % CLASSES]

    def epoch(number: int) -> Iterator:
        for _ in range(steps):
            model.train_on_batch(images, targets)
            yield images, targets

    return epoch


def run(kind: str, folder: Path, batch: int, workers: int) -> None:
    """One turn: prints what the second epoch took."""
    if kind in ("ours", "timm"):
        make = {"ours": our_epochs, "timm": timm_epochs}[kind]
        epochs = make(folder, batch, workers)
    else:
        epochs = model_epochs(kind, batch=8, steps=4)
    for _ in epochs(0):
        pass
    processor, start, count = processor_seconds(), time.perf_counter(), 0
    for images, _ in epochs(1):
        count += len(images)
    seconds = time.perf_counter() - start
    processor = processor_seconds() - processor
    result = {"images": count, "seconds": seconds, "processor_seconds": processor}
    print(json.dumps(result), flush=True)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--timm-python",
        default=str(ROOT / ".venv-peers" / "bin" / "python"),
        help="an interpreter with timm and torchvision",
    )
    parser.add_argument("--model", help="a constructor, such as CAFormerS18")
    parser.add_argument("--csv", type=Path, help="file for all turns")
    parser.add_argument("--turn", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.turn:
        run(options.turn, options.folder, options.batch, options.workers)
        return
    interpreters = {"ours": sys.executable, "timm": options.timm_python}
    if not Path(options.timm_python).exists():
        del interpreters["timm"]
        print("timm's environment is missing: benchmarks/make_peers.py --torchvision")
    if options.model:
        interpreters[options.model] = sys.executable
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in interpreters}
    environment = describe_environment()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        write_images(Path(folder), options.images)
        for number in range(options.turns):
            for kind, interpreter in interpreters.items():
                command = [
                    *(interpreter, "-m", "benchmarks.input_pipeline"),
                    *("--turn", kind, "--folder", folder),
                    *("--batch", str(options.batch)),
                    *("--workers", str(options.workers)),
                ]
                finished = subprocess.run(
                    command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
                )
                turn = json.loads(finished.stdout.splitlines()[-1])
                found[kind].append(turn)
                rows.append({"contender": kind, "turn": number, **turn, **environment})
                print(kind, {name: round(value, 2) for name, value in turn.items()})
    if options.csv:
        with options.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for kind, turns in found.items():
        rate = median(turn["images"] / turn["seconds"] for turn in turns)
        core = median(turn["images"] / turn["processor_seconds"] for turn in turns)
        print(f"{kind}: {core:.1f} images a second and core, {rate:.1f} a second")
    for other in (kind for kind in found if kind != "ours"):
        ratio = median(
            (theirs["processor_seconds"] / theirs["images"])
            / (own["processor_seconds"] / own["images"])
            for own, theirs in zip(found["ours"], found[other], strict=True)
        )
        print(f"ours / {other}, images a core: {ratio:.2f}")


if __name__ == "__main__":
    main()
