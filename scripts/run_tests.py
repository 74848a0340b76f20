"""Runs pytest once per backend, each in a process of its own, two at a time.

Lines are passed on as they come, marked with the backend. All backends run even
if one fails. At the end the failures of each and pytest's closing line are repeated.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Those that take longest first.
BACKENDS = ("torch", "jax", "tensorflow")
_print_lock = threading.Lock()
# pytest's closing line, as in "== 3 passed, 1 skipped in 0.02s ==".
_CLOSING_LINE = re.compile(r"=+ .*\b(passed|failed|error|errors|deselected|ran)\b.* =+")


def run(
    backend: str, selection: str, jobs: int, pytest_arguments: list[str]
) -> tuple[int, list[str]]:
    """Returns the exit status and pytest's lines on failures and its closing line."""
    command = [sys.executable, "-m", "pytest", "-m", selection, *pytest_arguments]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    if jobs > 1:
        # Threads that wait for each other in a loop (OpenMP's, in torch) slow down
        # more than tenfold when others want the cores too.
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    summary: list[str] = []
    for line in process.stdout:
        if line.startswith(("FAILED ", "ERROR ")) or _CLOSING_LINE.match(line):
            summary.append(line.rstrip())
        with _print_lock:
            print(f"[{backend}] {line.rstrip()}", flush=True)
    return process.wait(), summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--large", action="store_true", help="the long tests too")
    parser.add_argument("--jobs", type=int, default=2, help="backends at a time")
    arguments, pytest_arguments = parser.parse_known_args()

    backends = sorted(arguments.backends, key=BACKENDS.index)
    # What is the same on each runs once: paths through models on torch, which compiles
    # nothing, what runs no model on TensorFlow, whose converters are at hand there.
    places = {
        "one_backend": backends[0],
        "backend_independent and not one_backend": backends[-1],
    }
    if arguments.large:
        del places["one_backend"]

    def select(backend: str) -> str:
        left_out = [marks for marks, place in places.items() if place != backend]
        if not arguments.large:
            left_out.append("large")
        return " and ".join(f"not ({marks})" for marks in left_out)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(
            pool.map(
                lambda backend: run(
                    backend, select(backend), arguments.jobs, pytest_arguments
                ),
                backends,
            )
        )

    for backend, (status, summary) in zip(backends, results, strict=True):
        outcome = "passed" if status == 0 else f"failed, exit status {status}"
        print("", f"{backend}: {outcome}", *summary, sep="\n")
    return int(any(status != 0 for status, _ in results))


if __name__ == "__main__":
    sys.exit(main())
