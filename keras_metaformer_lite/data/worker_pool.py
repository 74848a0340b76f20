"""Processes that prepare images, and give them back in order.

Each is a fresh Python that imports NumPy and Pillow and no backend. Nothing is forked:
a fork of a process with the threads of TensorFlow, JAX or PyTorch may wait for ever for
a lock that one of them held. Nor does `multiprocessing` start them: its fresh processes
run the caller's script once more, which then needs a `__main__` guard. Images come back
through pipes: shared memory would stay behind after a `kill -9`, and a pipe's end is
what tells a worker that its parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from keras_metaformer_lite.data import worker
from keras_metaformer_lite.data.errors import DataError, WorkerError
from keras_metaformer_lite.images import ImageError
from keras_metaformer_lite.processes import python_command

_WORKER = Path(worker.__file__)
#: Tasks that a worker holds: while one is on its way back, the next is worked on.
_TASKS_AHEAD = 2
_SECONDS_TO_END = 2.0
_PIPE_BYTES = 1 << 20
#: What a task may raise so that the caller sees it as what it is.
_KNOWN = {
    f"{kind.__module__}.{kind.__qualname__}": kind for kind in (DataError, ImageError)
}


def default_workers() -> int:
    """One for each core that this process may use, but one for the model."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(cores - 1, 1)


class WorkerPool:
    """Calls one object in several processes, in the order of the tasks.

    Args:
        call: an object to call with each task; it must pickle, by a module that can be
            imported.
        workers: number of processes; 0 for this one, None for `default_workers()`.

    Raises:
        ValueError: if `workers` is negative, or `call` does not pickle.
    """

    def __init__(self, call: Callable[[Any], Any], workers: int | None = None) -> None:
        if workers is None:
            workers = default_workers()
        if workers < 0:
            raise ValueError(
                f"`workers` must not be negative. Received: workers={workers}"
            )
        self.workers = workers
        self._call = call
        self._running = False
        self._processes: list[_Process] = []
        if not workers:
            return
        try:
            content = pickle.dumps(call)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                "What worker processes are given must pickle, so its classes must "
                "stand in modules; or have no workers, with workers=0 "
                f"({type(error).__name__}: {error}). Received: {call!r:.200}"
            ) from error
        try:
            self._processes = [_Process() for _ in range(workers)]
            # All start at once, then each is waited for.
            for process in self._processes:
                process.send(content)
            for process in self._processes:
                process.receive()
        except BaseException:
            self.close()
            raise

    def run(
        self, tasks: Iterable[Any], ahead: int | None = None
    ) -> Generator[Any, None, None]:
        """What the object gives for each task, in their order.

        Args:
            tasks: are taken as they are needed, in a thread of this process.
            ahead: results that may wait to be taken; None for two for each worker.

        Raises:
            DataError: if a task raised it, or a worker ended.
            ImageError: if a task raised it.
            WorkerError: if a task raised anything else.
        """
        if not self.workers:
            yield from map(self._call, tasks)
            return
        if self._running:
            raise RuntimeError(
                "Batches of one object come from one iterator at a time: close the one "
                "before, or use it up."
            )
        self._running = True
        run = _Run(iter(tasks), ahead or _TASKS_AHEAD * self.workers)
        threads = [
            threading.Thread(target=run.serve, args=(process,), daemon=True)
            for process in self._processes
        ]
        for thread in threads:
            thread.start()
        try:
            yield from run
        finally:
            run.stop()
            for thread in threads:
                thread.join()
            self._running = False

    def close(self) -> None:
        """End the processes."""
        processes, self._processes = self._processes, []
        for process in processes:
            process.hang_up()
        for process in processes:
            process.end()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Process:
    """One worker, and the two pipes to it."""

    def __init__(self) -> None:
        self._process: Any = subprocess.Popen(
            python_command(_WORKER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # Workers share the cores among them as it is.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        _widen(self._process.stdout)
        folders = [os.path.abspath(folder) for folder in sys.path if folder]
        self.send((os.getpid(), folders))

    def send(self, message: Any) -> None:
        try:
            worker.send(self._process.stdin, message)
        except (BrokenPipeError, OSError) as error:
            raise self._gone() from error

    def receive(self) -> Any:
        try:
            went_well, answer = worker.receive(self._process.stdout, _memory)
        except EOFError as error:
            raise self._gone() from error
        if went_well:
            return answer
        kind, text, trace = answer
        if kind in _KNOWN:
            raise _KNOWN[kind](text)
        raise WorkerError(
            f"{kind.removeprefix('builtins.')} in a worker process: {text}\n{trace}"
        )

    def _gone(self) -> WorkerError:
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            code = None
        reason = f"exit code {code}"
        if code is not None and code < 0:
            reason = f"signal {-code}"
            if code == -9:
                reason += ", as when memory runs out: have fewer workers"
        return WorkerError(
            "A process that prepares images ended before its work was done. "
            f"Received: {reason}"
        )

    def hang_up(self) -> None:
        """Close both pipes, which tells the process to end."""
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def end(self) -> None:
        """Wait for the end of the process, and bring it about."""
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _memory(size: int) -> np.ndarray:
    """Memory that is not filled with zeros first, as a bytearray's is."""
    return np.empty(size, "uint8")


def _widen(pipe: Any) -> None:
    """Let more go through a pipe at once, where the system has a way to say so."""
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError):  # More than this user may have.
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


class _Run:
    """Tasks on their way through the processes, each served by a thread."""

    def __init__(self, tasks: Iterator[Any], ahead: int) -> None:
        self._tasks = tasks
        self._ahead = ahead
        self._changed = threading.Condition()
        self._given = 0  # tasks that were handed out
        self._taken = 0  # results that the caller has
        self._count: int | None = None  # of all tasks, when that is known
        self._results: dict[int, Any] = {}
        self._error: BaseException | None = None
        self._stopped = False

    def serve(self, process: _Process) -> None:
        """Hand tasks to a process, and take its results, until there are no more."""
        waiting: list[int] = []
        try:
            while True:
                while len(waiting) < _TASKS_AHEAD:
                    # With work under way, none is waited for.
                    found = self._next(wait=not waiting)
                    if found is None:
                        break
                    number, task = found
                    process.send(task)
                    waiting.append(number)
                if not waiting:
                    return
                result = process.receive()
                with self._changed:
                    self._results[waiting.pop(0)] = result
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = self._error or error
                self._stopped = True
                self._changed.notify_all()
            # What the process still has under way is of no use, and must not be taken
            # for results of the next run.
            for _ in waiting[1:]:
                with contextlib.suppress(ValueError, RuntimeError):
                    process.receive()

    def _next(self, wait: bool) -> tuple[int, Any] | None:
        """The next task, or None if there are none, or none yet."""
        with self._changed:
            while True:
                if self._stopped or self._count is not None:
                    return None
                if self._given < self._taken + self._ahead:
                    break
                if not wait:
                    return None
                self._changed.wait()
            try:
                task = next(self._tasks)
            except StopIteration:
                self._count = self._given
                self._changed.notify_all()
                return None
            self._given += 1
            return self._given - 1, task

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                while self._taken not in self._results:
                    if self._error is not None:
                        raise self._error
                    if self._taken == self._count:
                        return
                    self._changed.wait()
                result = self._results.pop(self._taken)
                self._taken += 1
                self._changed.notify_all()
            yield result

    def stop(self) -> None:
        """Hand out no more tasks."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
