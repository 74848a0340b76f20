"""What training on many devices costs, on paper: for each model, from its size.

    python -m benchmarks.cost_of_scale --devices 8 --network 25 --peak 312 --use 0.35

For a step of data parallel training with `--batch` images on each device:

    gradient bytes    4 w                     w weights, float32
    all-reduce        2 (n - 1) / n 4 w / b   a ring of n, b bytes a second each way
    computing         6 m i / (p u)           m multiplications with additions an image,
                                              i images, forward and twice backward, p
                                              peak operations a second, u of them used
    efficiency        c / max(c, a)           all-reduce hidden behind the backward pass
                      c / (c + a)             and not hidden at all
    input             110 kB n i / step       JPEG files as large as ImageNet's mean
    checkpoint        16 w / d                weights, two moments, the average; d bytes
                                              a second to the disk

Prints a table, or writes CSV.
"""

import argparse
import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_metaformer_lite.listing import ListedModel, all_models

IMAGE_BYTES = 110e3
WEIGHT_BYTES = 4
#: Weights, two moments of the optimizer, and the average.
CHECKPOINT_COPIES = 4


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices and what joins them.

    Attributes:
        devices: int.
        network: bytes a second that a device sends while it receives as many.
        peak: operations a second of a device, a multiplication and an addition two.
        use: of the peak, from 0 to 1.
        disk: bytes a second to where checkpoints are written.
    """

    devices: int
    network: float
    peak: float
    use: float
    disk: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step of a model costs.

    Attributes:
        model: its name.
        gradient_bytes: of a step.
        all_reduce_seconds: of a step.
        compute_seconds: of a step.
        efficiency_hidden: computing over the whole step where all-reduce and backward
            pass go on together.
        efficiency_apart: where they do not.
        images_per_second: of all devices, hidden.
        input_bytes_per_second: of image files, all devices.
        checkpoint_seconds: for one.
    """

    model: str
    gradient_bytes: float
    all_reduce_seconds: float
    compute_seconds: float
    efficiency_hidden: float
    efficiency_apart: float
    images_per_second: float
    input_bytes_per_second: float
    checkpoint_seconds: float


def all_reduce_seconds(size: float, devices: int, network: float) -> float:
    """Of a ring: each device sends `2 (n - 1) / n` times the bytes."""
    return 2 * (devices - 1) / devices * size / network


def cost(model: ListedModel, batch: int, cluster: Cluster) -> Cost:
    """Of a step with `batch` images on each device."""
    gradients = WEIGHT_BYTES * model.parameters
    exchange = all_reduce_seconds(gradients, cluster.devices, cluster.network)
    computing = 6 * model.macs * batch / (cluster.peak * cluster.use)
    step = max(computing, exchange)
    images = cluster.devices * batch / step
    return Cost(
        model.name,
        gradients,
        exchange,
        computing,
        computing / step,
        computing / (computing + exchange),
        images,
        images * IMAGE_BYTES,
        CHECKPOINT_COPIES * gradients / cluster.disk,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128, help="of each device")
    parser.add_argument("--network", type=float, default=25, help="Gbit/s, each way")
    parser.add_argument("--peak", type=float, default=312, help="TFLOP/s of a device")
    parser.add_argument("--use", type=float, default=0.35, help="part of the peak")
    parser.add_argument("--disk", type=float, default=1, help="GB/s")
    parser.add_argument("--csv", type=Path, help="file to write instead")
    given = parser.parse_args(arguments)
    cluster = Cluster(
        given.devices,
        given.network * 1e9 / 8,
        given.peak * 1e12,
        given.use,
        given.disk * 1e9,
    )
    costs = [cost(model, given.batch, cluster) for model in all_models()]
    if given.csv is not None:
        with given.csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(field.name for field in dataclasses.fields(Cost))
            writer.writerows(dataclasses.astuple(each) for each in costs)
        return 0
    titles = "MB ms_sum ms_step hidden apart images/s MB/s_in s_saved".split()
    print(f"{'model':24}" + "".join(f"{title:>10}" for title in titles))
    for each in costs:
        print(
            f"{each.model:24}{each.gradient_bytes / 1e6:10.0f}"
            f"{1e3 * each.all_reduce_seconds:10.1f}{1e3 * each.compute_seconds:10.1f}"
            f"{each.efficiency_hidden:10.0%}{each.efficiency_apart:10.0%}"
            f"{each.images_per_second:10.0f}{each.input_bytes_per_second / 1e6:10.0f}"
            f"{each.checkpoint_seconds:10.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
