"""The processes of contenders."""

import os
import sys

import pytest

from benchmarks.contender import Case, Contender, Job
from benchmarks.workers import contender_command, worker_environment
from keras_metaformer.benchmark.turns import WorkerProcess, compare

pytestmark = pytest.mark.backend_independent

CASE = Case("CAFormerS18", "inference", 2, "float32", "cpu", 64)


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
    timm = Job(Contender("timm", "torch"), CASE)
    assert contender_command(timm, "/other/python")[0] == "/other/python"
    assert contender_command(timm, None)[0] == sys.executable
    ours = Job(Contender("ours", "torch"), CASE)
    assert contender_command(ours, "/other/python")[0] == sys.executable


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
        return WorkerProcess(contender_command(job, None), environment, 300)

    inference, training, missing = compare(jobs, start, 1)
    assert (inference.status, inference.message) == ("ok", "")
    assert (training.status, training.message) == ("ok", "")
    assert inference.turns[0]["seconds"] > 0
    assert inference.ready["versions"]["torch"]
    assert inference.memory["peak_memory"] > 2**20
    assert missing.status == "failed"
    assert "timm has no such model" in missing.message
