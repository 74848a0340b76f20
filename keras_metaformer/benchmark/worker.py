"""The child process that times one job, when it is its turn.

    python -P worker.py MODULE [FOLDER ...]

It reads one JSON line for each request and answers with one. In between it waits for
the next line, so that the processor belongs to whoever has its turn. The first request
is the job, a dictionary: `make(job)` of the module prepares it and gives the call to
time and a function that says at the end what else is known. Started by `turns.py` by
its path, also in interpreters without this package: nothing here imports more than
Python's own library.
"""

import json
import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

#: Most calls of one turn.
MAXIMUM_CALLS = 200
#: A call shorter than this is made once more, untimed, at the start of a turn: it wakes
#: the threads and brings the weights back into the caches.
_SHORT_SECONDS = 1.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PACKAGES = ("keras", "tensorflow", "jax", "torch", "timm", "numpy")


class Worker:
    """A job, prepared and ready for its turns.

    Args:
        make: see above.
        job: what to compute; `minimum_seconds` is how long a turn repeats its call.
    """

    def __init__(self, make: Callable[[dict], Any], job: dict[str, Any]) -> None:
        start = time.perf_counter()
        self.call, self.about = make(job)
        self.build_seconds = time.perf_counter() - start
        first = self._seconds_of_a_call()
        # A second call may still compile, for memory layouts seen in the first.
        second = self._seconds_of_a_call()
        self.call_seconds = self._seconds_of_a_call()
        # What the first calls took longer than a later one is tracing and compilation.
        self.compile_seconds = max(0.0, first + second - 2 * self.call_seconds)
        wanted = math.ceil(job["minimum_seconds"] / max(self.call_seconds, 1e-9))
        self.calls = min(max(wanted, 1), MAXIMUM_CALLS)
        _come_to_rest()
        self._resting_since = time.perf_counter(), time.process_time()

    def _seconds_of_a_call(self) -> float:
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start

    def ready(self) -> dict[str, Any]:
        """What is known before the first turn."""
        return {
            "build_s": self.build_seconds,
            "compile_s": self.compile_seconds,
            "calls": self.calls,
            "versions": installed_versions(),
            "python": sys.version.split()[0],
        }

    def turn(self) -> dict[str, float | None]:
        """Seconds of a call, averaged over the calls of one turn.

        Besides: the processor time that this process took while others had their turn,
        per second (its threads may wait in a loop), and the processor time per second
        that other processes took during this turn, where the system tells.
        """
        rest_start, rest_processor = self._resting_since
        resting = max(time.perf_counter() - rest_start, 1e-9)
        waiting = (time.process_time() - rest_processor) / resting
        if self.call_seconds < _SHORT_SECONDS:
            self.call()
        busy, processor = _busy_seconds(), time.process_time()
        start = time.perf_counter()
        for _ in range(self.calls):
            self.call()
        seconds = time.perf_counter() - start
        processor = time.process_time() - processor
        busy_after = _busy_seconds()
        others = None
        if busy is not None and busy_after is not None:
            others = max(0.0, (busy_after - busy - processor) / seconds)
        _come_to_rest()
        self._resting_since = time.perf_counter(), time.process_time()
        return {
            "seconds": seconds / self.calls,
            "processor_seconds": processor / self.calls,
            "waiting_load": waiting,
            "other_load": others,
        }

    def finish(self) -> dict[str, Any]:
        """The peak of memory in bytes, and what the job's module adds."""
        return {"peak_memory": peak_memory(), **self.about()}


def _come_to_rest(limit: float = 2.0) -> None:
    """Waits until the threads of this process, which spin for a while, sleep."""
    end = time.perf_counter() + limit
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.0005:
            return


def peak_memory() -> int | None:
    """The largest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _busy_seconds() -> float | None:
    """Processor time of the whole machine since its start, on Linux."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, *interrupts = map(
                int, file.readline().split()[1:]
            )
    except (OSError, ValueError):
        return None
    ticks = user + nice + system + sum(interrupts[:2])
    return ticks / os.sysconf("SC_CLK_TCK")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter, as far as they are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_error(error: BaseException) -> dict[str, str]:
    """`status` and `message` of what went wrong in a worker."""
    text = f"{type(error).__name__}: {error}"
    # One line for a row of a table; Keras colours its messages and breaks their lines.
    text = " ".join(_COLOURS.sub("", text).split())
    signs = ("out of memory", "resource_exhausted", "oom when", "memoryerror")
    lost = any(sign in text.lower() for sign in signs) or "can't allocate" in text
    return {
        "status": "out of memory" if lost else "failed",
        "message": textwrap.shorten(text, 300),  # Compilers add pages.
    }


def serve(make: Callable[[dict], Any], requests: Any, answers: Any) -> None:
    """Answers requests until there are no more.

    The first is the job, as JSON; then `"turn"` as often as wanted, and `"finish"`.
    """
    worker = None
    for line in requests:
        request = json.loads(line)
        try:
            if isinstance(request, dict):
                worker = Worker(make, request)
                answer: Any = worker.ready()
            else:
                assert worker is not None
                answer = {"turn": worker.turn, "finish": worker.finish}[request]()
        except Exception as error:
            import traceback

            traceback.print_exc()  # to the file that the parent reads if all fails
            answers.write(json.dumps({"error": describe_error(error)}) + "\n")
            answers.flush()
            return
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serves on standard input and output; what libraries print goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    module, *folders = sys.argv[1:]
    # Not through PYTHONPATH, which stands before Python's own library.
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]

    def make(job: dict) -> Any:
        return import_module(module).make(job)

    serve(make, sys.stdin, answers)
    # No farewell: threads of the frameworks may hang at exit.
    answers.close()
    os._exit(0)


if __name__ == "__main__":
    main()
