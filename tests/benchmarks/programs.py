"""The programs in benchmarks/, run as they are called."""

import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_program(name: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks.NAME` in the repository, and keep what it writes."""
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
