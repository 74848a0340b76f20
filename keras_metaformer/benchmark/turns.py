"""Contenders taking turns: one process each, all alive, one computing at a time."""

import contextlib
import dataclasses
import json
import os
import queue
import random
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_metaformer.benchmark.contender import Contender, Job
from keras_metaformer.processes import python_command

PACKAGE = Path(__file__).resolve().parent.parent

#: Enters the package without running its `__init__`, which needs Keras: an interpreter
#: of peers has none.
_START_WITHOUT_KERAS = f"""
import sys, types
package = types.ModuleType("keras_metaformer")
package.__path__ = [{str(PACKAGE)!r}]
sys.modules["keras_metaformer"] = package
from keras_metaformer.benchmark.worker import main
main()
"""
_START = "from keras_metaformer.benchmark.worker import main; main()"


class WorkerFailure(Exception):
    """A contender could not be prepared or measured, or its process ended.

    Attributes:
        status: `"out of memory"`, `"failed"` or `"timed out"`.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass
class Outcome:
    """What became of one contender.

    Attributes:
        job: what it was given.
        status: `"ok"`, or as in `WorkerFailure`.
        message: what went wrong, or empty.
        ready: what the worker said of itself before its first turn.
        turns: what it said of each turn, in order.
        memory: its peaks of memory.
    """

    job: Job
    status: str = "ok"
    message: str = ""
    ready: dict[str, Any] = dataclasses.field(default_factory=dict)
    turns: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)


class WorkerProcess:
    """A running worker.

    Args:
        command: what to start.
        environment: of the process.
        timeout: float. Seconds that an answer may take.
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], timeout: float
    ) -> None:
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until `close`
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, request: Any) -> dict[str, Any]:
        """The worker's answer to a request.

        Raises:
            WorkerFailure: if it reports an error, ends, or takes too long.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # Its end shows below.
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            raise WorkerFailure(
                "timed out", f"No answer within {self._timeout:g} seconds"
            ) from None
        if line is None:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailure(**answer["error"])
        return answer

    def _ended(self) -> WorkerFailure:
        code = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode("utf-8", "replace").strip()
        last = text.splitlines()[-1] if text else "it said nothing"
        if code == -9:  # How Linux ends a process when memory runs out.
            return WorkerFailure("out of memory", "The process was killed (signal 9)")
        return WorkerFailure("failed", f"The process ended with status {code}: {last}")

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def worker_command(contender: Contender, peer_python: str | None) -> list[str]:
    """What starts the worker of a contender.

    Args:
        contender: which.
        peer_python: the interpreter that has timm, or None if this one has it.
    """
    if contender.kind == "timm":
        return python_command("-c", _START_WITHOUT_KERAS, interpreter=peer_python or "")
    return python_command("-c", _START)


def worker_environment(job: Job) -> dict[str, str]:
    """The environment variables of the worker of a job."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": job.contender.backend,
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
        "PYTHONUTF8": "1",
    }
    if job.contender.kind != "timm":  # which has its own way in, and needs no more
        # The workers run the package that this process runs, installed or not.
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
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


def order_of_turns(contenders: int, repetitions: int) -> list[list[int]]:
    """For each round, the order of the contenders: all once, shuffled reproducibly.

    Another order each time, so that none always follows the same neighbour.
    """
    generator = random.Random(0)
    return [generator.sample(range(contenders), contenders) for _ in range(repetitions)]


def compare(
    jobs: Sequence[Job],
    repetitions: int,
    peer_python: str | None = None,
    timeout: float = 1800.0,
    progress: Callable[[str], None] = lambda message: None,
    start: Callable[[Job], WorkerProcess] | None = None,
) -> list[Outcome]:
    """Measures jobs in turns: in every round each is called once, in a process its own.

    A job that fails is reported in its outcome; the others go on.

    Args:
        jobs: what to compare.
        repetitions: int. Rounds.
        peer_python: the interpreter that has timm, or None for this one.
        timeout: float. Seconds that preparing a worker, or a turn of it, may take.
        progress: called with a line of text for each step.
        start: starts a worker; for tests.

    Returns:
        An outcome for each job, in the order of the jobs.
    """

    def start_worker(job: Job) -> WorkerProcess:
        command = worker_command(job.contender, peer_python)
        return WorkerProcess(command, worker_environment(job), timeout)

    outcomes = [Outcome(job) for job in jobs]
    workers: dict[int, WorkerProcess] = {}

    def attempt(index: int, request: Any) -> dict[str, Any] | None:
        try:
            return workers[index].ask(request)
        except WorkerFailure as failure:
            outcomes[index].status = failure.status
            outcomes[index].message = str(failure)
            workers.pop(index).close()
            progress(f"{jobs[index].contender.label}: {failure.status}: {failure}")
            return None

    try:
        # One after the other, so that each compiles alone.
        for index, job in enumerate(jobs):
            progress(f"preparing {job.contender.label}")
            workers[index] = (start or start_worker)(job)
            outcomes[index].ready = attempt(index, dataclasses.asdict(job)) or {}
        for number, order in enumerate(order_of_turns(len(jobs), repetitions)):
            if workers:
                progress(f"round {number + 1} of {repetitions}")
            for index in order:
                if index in workers:
                    turn = attempt(index, "turn")
                    if turn is not None:
                        outcomes[index].turns.append(turn)
        for index in list(workers):
            outcomes[index].memory = attempt(index, "finish") or {}
    finally:
        for worker in workers.values():
            worker.close()
    return outcomes
