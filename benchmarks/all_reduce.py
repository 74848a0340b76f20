"""The all-reduce of `cost_of_scale`, measured between processes of this machine.

First what the link carries: each process sends while it receives as much. Then the sum
of gradients as large as a model's. Process 0 prints both, and the measured time over
the one that `cost_of_scale` computes from that link, as JSON.

    torchrun --nproc-per-node 2 -m benchmarks.all_reduce --model ConvFormerS18
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from benchmarks.cost_of_scale import WEIGHT_BYTES, all_reduce_seconds
from keras_metaformer_lite.listing import all_models


def _median_seconds(call: Callable[[], object], turns: int) -> float:
    times = []
    for _ in range(turns + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    import torch
    import torch.distributed as group

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", default=["ConvFormerS18", "CAFormerB36"])
    parser.add_argument("--turns", type=int, default=9)
    arguments = parser.parse_args()
    parameters = {each.name: each.parameters for each in all_models()}
    group.init_process_group("gloo")
    place, number = group.get_rank(), group.get_world_size()
    sent, received = torch.ones(2**24), torch.empty(2**24)

    def exchange() -> None:
        sending = group.isend(sent, (place + 1) % number)
        group.recv(received, (place - 1) % number)
        assert sending is not None
        sending.wait()

    network = sent.nbytes / _median_seconds(exchange, arguments.turns)
    for name in arguments.model:
        gradients = torch.ones(parameters[name])
        measured = _median_seconds(
            lambda g=gradients: group.all_reduce(g), arguments.turns
        )
        expected = all_reduce_seconds(WEIGHT_BYTES * parameters[name], number, network)
        if place == 0:
            row = {
                "model": name,
                "processes": number,
                "network GB/s": round(network / 1e9, 2),
                "measured ms": round(1e3 * measured, 1),
                "computed ms": round(1e3 * expected, 1),
                "ratio": round(measured / expected, 2),
            }
            print(json.dumps(row), flush=True)
    group.destroy_process_group()


if __name__ == "__main__":
    main()
