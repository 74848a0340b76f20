"""Processes that take turns: all alive, one computing at a time."""

import contextlib
import dataclasses
import json
import queue
import random
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from keras_metaformer_lite.processes import python_command

#: Run by its path: it needs nothing but Python's own library.
_WORKER = Path(__file__).with_name("worker.py")


class WorkerFailure(Exception):
    """A job could not be prepared or measured, or its process ended.

    Attributes:
        status: `"out of memory"`, `"failed"` or `"timed out"`.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass
class Outcome:
    """What became of one job.

    Attributes:
        job: what the worker was given.
        status: `"ok"`, or as in `WorkerFailure`.
        message: what went wrong, or empty.
        ready: what the worker said of itself before its first turn.
        turns: what it said of each turn, in order.
        memory: its peaks of memory.
    """

    job: Any
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
        # Programs of torch.compile that another process has left on the disk would take
        # no time to compile, and may be made for other instructions than this process
        # is to use.
        self._compiled = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            command,
            env={"TORCHINDUCTOR_CACHE_DIR": self._compiled.name, **environment},
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
        self._compiled.cleanup()


def worker_command(module: str, *folders: Path, interpreter: str = "") -> list[str]:
    """What starts a worker.

    Args:
        module: whose function `make` prepares what the worker times; see `worker.py`.
        *folders: where the module and what it imports are looked for first.
        interpreter: another than that of this process, with or without this package.
    """
    return python_command(_WORKER, module, *folders, interpreter=interpreter)


def order_of_turns(jobs: int, repetitions: int) -> list[list[int]]:
    """For each round, the order of the jobs: all once, shuffled reproducibly.

    Another order each time, so that none always follows the same neighbour.
    """
    generator = random.Random(0)
    return [generator.sample(range(jobs), jobs) for _ in range(repetitions)]


def compare(
    jobs: Sequence[Any],
    start: Callable[[Any], WorkerProcess],
    repetitions: int,
    progress: Callable[[str], None] = lambda message: None,
    together: Callable[[Any], bool] = lambda job: False,
) -> list[Outcome]:
    """Measures jobs in turns: in every round each is called once, in a process its own.

    A job that fails is reported in its outcome; the others go on.

    Args:
        jobs: dataclasses of what JSON can say, with a `label` and `minimum_seconds`.
        start: starts the worker of a job.
        repetitions: int. Rounds.
        progress: called with a line of text for each step.
        together: tells the jobs that may be prepared at once, before the others: where
            time on the machine is dear, and their compile times are not wanted.

    Returns:
        An outcome for each job, in the order of the jobs.
    """
    outcomes = [Outcome(job) for job in jobs]
    workers: dict[int, WorkerProcess] = {}

    def attempt(index: int, request: Any) -> dict[str, Any] | None:
        try:
            return workers[index].ask(request)
        except WorkerFailure as failure:
            outcomes[index].status = failure.status
            outcomes[index].message = str(failure)
            workers.pop(index).close()
            progress(f"{jobs[index].label}: {failure.status}: {failure}")
            return None

    try:
        crowd = [index for index, job in enumerate(jobs) if together(job)]
        alone = [index for index in range(len(jobs)) if index not in crowd]
        for group in [crowd, *([index] for index in alone)]:
            if not group:
                continue
            progress(f"preparing {', '.join(jobs[index].label for index in group)}")
            for index in group:
                workers[index] = start(jobs[index])
            requests = [dataclasses.asdict(jobs[index]) for index in group]
            with ThreadPoolExecutor(len(group)) as threads:
                answers = list(threads.map(attempt, group, requests))
            for index, answer in zip(group, answers, strict=True):
                outcomes[index].ready = answer or {}
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


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third
