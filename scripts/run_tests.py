"""Runs pytest once per backend, one after the other, each in several processes.

All backends run even if one fails. At the end the failures of each and pytest's closing
line are repeated.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("torch", "jax", "tensorflow")
#: A process comes to hold gigabytes of compiled models, so not as many as cores.
PROCESSES = min(4, max(2, os.cpu_count() or 1))
# pytest's closing line, as in "== 3 passed, 1 skipped in 0.02s ==".
_CLOSING_LINE = re.compile(r"=+ .*\b(passed|failed|error|errors|deselected|ran)\b.* =+")


def run(
    backend: str, selection: str, processes: int, pytest_arguments: list[str]
) -> tuple[int, list[str]]:
    """Returns the exit status and pytest's lines on failures and its closing line."""
    command = [sys.executable, "-m", "pytest", "-m", selection]
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"}
    if processes > 1:
        # Half of the tests each; who is done takes of the others' rest. A module's
        # tests mostly stay together, and with them what its fixtures have made.
        command += ["--numprocesses", str(processes), "--dist", "worksteal"]
        # Threads that wait for each other in a loop (OpenMP's, in torch) slow down
        # more than tenfold when others want the cores too.
        threads = max(1, (os.cpu_count() or 1) // processes)
        environment["OMP_NUM_THREADS"] = str(threads)
    process = subprocess.Popen(
        [*command, *pytest_arguments],
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
        print(f"[{backend}] {line.rstrip()}", flush=True)
    return process.wait(), summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--large", action="store_true", help="the long tests too")
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, help="of a backend's tests"
    )
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

    results = [
        run(backend, select(backend), arguments.processes, pytest_arguments)
        for backend in backends
    ]
    for backend, (status, summary) in zip(backends, results, strict=True):
        outcome = "passed" if status == 0 else f"failed, exit status {status}"
        print("", f"{backend}: {outcome}", *summary, sep="\n")
    return int(any(status != 0 for status, _ in results))


if __name__ == "__main__":
    sys.exit(main())
