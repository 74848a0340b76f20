"""The worker processes of contenders."""

import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.contender import KINDS, Job
from keras_metaformer.benchmark.turns import WorkerProcess, worker_command

#: The checkout.
ROOT = Path(__file__).resolve().parent.parent


def start_worker(
    timeout: float, peer_python: str | None = None
) -> Callable[[Job], WorkerProcess]:
    """What starts the worker of a job.

    Args:
        timeout: float. Seconds that preparing it, or a turn of it, may take.
        peer_python: the interpreter that has timm, or None for this one.
    """
    return lambda job: WorkerProcess(
        contender_command(job, peer_python), worker_environment(job), timeout
    )


def contender_command(job: Job, peer_python: str | None, *folders: Path) -> list[str]:
    """What starts the worker of a job.

    Args:
        job: for a contender.
        peer_python: the interpreter that has timm, or None if this one has it.
        *folders: where `keras_metaformer` is looked for before this checkout.
    """
    if KINDS[job.contender.kind].peer:
        return worker_command(
            "benchmarks.timm_calls", ROOT, interpreter=peer_python or ""
        )
    return worker_command("benchmarks.keras_calls", *folders, ROOT)


def worker_environment(job: Job) -> dict[str, str]:
    """The environment variables of the worker of a job."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": job.contender.backend,
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }
    if "no_fast_paths" in job.contender.options or job.contender.kind == "stock":
        environment["KERAS_METAFORMER_FAST_PATHS"] = "0"
    if job.case.device == "cpu":
        environment |= {
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_PLATFORMS": "cpu",
            "KERAS_TORCH_DEVICE": "cpu",
        }
    else:
        # Several processes share the card: none may take all of its memory at once.
        environment |= {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "KERAS_TORCH_DEVICE": "cuda",
        }
    return environment
