"""Who computes when, and what becomes of those who fail."""

import os
import sys
from pathlib import Path

import pytest

from keras_metaformer.benchmark.contender import Case, Contender, Job
from keras_metaformer.benchmark.turns import (
    WorkerProcess,
    compare,
    order_of_turns,
    worker_command,
    worker_environment,
)

pytestmark = pytest.mark.backend_independent

SCRIPT = Path(__file__).with_name("scripted_worker.py")
CASE = Case("CAFormerS18", "inference", 2, "float32", "cpu", 64)


def _compare(behaviours, tmp_path, repetitions=3, timeout=30.0):
    """Contenders named by their options, which say how they behave."""
    log = tmp_path / "log"
    jobs = [
        Job(Contender("ours", "jax", (f"{number}", behaviour)), CASE)
        for number, behaviour in enumerate(behaviours)
    ]

    def start(job):
        name, behaviour = job.contender.options
        command = [sys.executable, str(SCRIPT), name, str(log), behaviour]
        return WorkerProcess(command, dict(os.environ), timeout)

    outcomes = compare(jobs, repetitions, start=start)
    return outcomes, [line.split() for line in log.read_text().splitlines()]


def test_one_at_a_time_and_each_once_per_round(tmp_path):
    outcomes, log = _compare(["good"] * 3, tmp_path, repetitions=4)
    assert [name for name, what in log[:3]] == ["0", "1", "2"]
    assert {what for _, what in log[:3]} == {"prepared"}
    turns = log[3:]
    # Every start is followed by the end of the same one.
    for begun, ended in zip(turns[::2], turns[1::2], strict=True):
        assert (begun[1], ended[1]) == ("start", "end")
        assert begun[0] == ended[0]
    names = [name for name, _ in turns[::2]]
    rounds = [names[i : i + 3] for i in range(0, 12, 3)]
    assert [sorted(each) for each in rounds] == [["0", "1", "2"]] * 4
    assert rounds == [[str(i) for i in order] for order in order_of_turns(3, 4)]
    assert all(outcome.status == "ok" for outcome in outcomes)
    assert [turn["seconds"] for turn in outcomes[0].turns] == [0.01, 0.02, 0.03, 0.04]
    assert outcomes[0].ready["calls"] == 3
    assert outcomes[0].memory["peak_memory"] == 2**30


def test_the_order_changes_and_is_reproducible():
    orders = order_of_turns(5, 9)
    assert orders == order_of_turns(5, 9)
    assert len({tuple(order) for order in orders}) > 5


@pytest.mark.parametrize(
    ("behaviour", "status", "message", "turns"),
    [
        ("dies", "failed", "status 3: Fatal: lost my way", 1),
        ("killed", "out of memory", "signal 9", 1),
        ("hangs", "timed out", "within 1 seconds", 1),
        ("refuses", "out of memory", "no room", 0),
    ],
)
def test_the_rest_goes_on(behaviour, status, message, turns, tmp_path):
    outcomes, _ = _compare(
        ["good", behaviour, "good"],
        tmp_path,
        timeout=1.0 if behaviour == "hangs" else 30.0,
    )
    assert [outcome.status for outcome in outcomes] == ["ok", status, "ok"]
    assert message in outcomes[1].message
    assert [len(outcome.turns) for outcome in outcomes] == [3, turns, 3]


def test_environment_of_a_worker():
    def environment(kind, backend, *options, device="cpu"):
        case = Case("CAFormerS18", "inference", 1, "float32", device, 64)
        return worker_environment(Job(Contender(kind, backend, options), case))

    ours = environment("ours", "jax")
    assert ours["KERAS_BACKEND"] == "jax"
    assert ours["CUDA_VISIBLE_DEVICES"] == ""
    assert ours.get("KERAS_METAFORMER_FAST_PATHS") != "0"
    assert environment("stock", "jax")["KERAS_METAFORMER_FAST_PATHS"] == "0"
    off = environment("ours", "torch", "no_fast_paths", device="gpu")
    assert off["KERAS_METAFORMER_FAST_PATHS"] == "0"
    # Several share the card.
    assert off["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert off.get("CUDA_VISIBLE_DEVICES") == os.environ.get("CUDA_VISIBLE_DEVICES")


def test_peers_run_in_their_own_interpreter():
    timm = Contender("timm", "torch")
    assert worker_command(timm, "/other/python")[0] == "/other/python"
    assert worker_command(timm, None)[0] == sys.executable
    ours = Contender("ours", "torch")
    assert worker_command(ours, "/other/python")[0] == sys.executable


FAKE_TIMM = """
__version__ = "0.0"
import torch
def is_model(name):
    return name == "caformer_s18"
def create_model(name, **options):
    assert not options
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 8, 8),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 1000)
    )
"""


def test_a_peer_needs_no_keras(tmp_path):
    """The real worker, where importing Keras fails and timm is a small stand-in."""
    (tmp_path / "keras.py").write_text("raise ImportError('no Keras here')")
    (tmp_path / "timm.py").write_text(FAKE_TIMM)
    jobs = [
        Job(Contender("timm", "torch", options), case, 0.0)
        for options, case in (
            ((), CASE),
            (
                ("channels_last",),
                Case("CAFormerS18", "training", 2, "mixed_bfloat16", "cpu", 64),
            ),
            ((), Case("FFNet1", "inference", 2, "float32", "cpu", 64)),
        )
    ]

    def start(job):
        environment = worker_environment(job) | {"PYTHONPATH": str(tmp_path)}
        return WorkerProcess(worker_command(job.contender, None), environment, 120)

    inference, training, missing = compare(jobs, 1, start=start)
    assert (inference.status, inference.message) == ("ok", "")
    assert (training.status, training.message) == ("ok", "")
    assert inference.turns[0]["seconds"] > 0
    assert inference.ready["versions"]["torch"]
    assert inference.memory["peak_memory"] > 2**20
    assert missing.status == "failed"
    assert "timm has no such model" in missing.message
