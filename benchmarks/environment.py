"""What a measurement was made on: machine, system, software, date."""

import contextlib
import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_HERE = Path(__file__).resolve().parent
#: What decides which kernels the frameworks take, and which allocator.
_VARIABLES = (
    "TF_ENABLE_ONEDNN_OPTS",
    "ONEDNN_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "XLA_FLAGS",
    "OMP_NUM_THREADS",
    "LD_PRELOAD",
)


def describe_environment() -> dict[str, str | int | float | None]:
    """The machine and the system, in columns of the table; None where unknown.

    `ram_gib` is the memory of the machine, `cores` what this process may use,
    `load_before` the system's load average over the last minute, `variables` those that
    choose kernels or the allocator, as a shell reads them, or empty.
    """
    return {
        "cpu": _processor(),
        "cores": _cores(),
        "ram_gib": _memory_gib(),
        "os": platform.platform(),
        "load_before": round(os.getloadavg()[0], 2) if _has_load() else None,
        "variables": " ".join(
            f"{name}={shlex.quote(os.environ[name])}"
            for name in _VARIABLES
            if name in os.environ
        ),
        "keras_metaformer": _version(),
        "revision": _revision(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _has_load() -> bool:
    return hasattr(os, "getloadavg")


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine() or None


def _memory_gib() -> float | None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return round(size / 2**30, 1)
    return None


def _version() -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("keras-metaformer")
    return None


def _revision() -> str | None:
    """The git commit of a checkout, with `+` if files differ from it."""
    folder = str(_HERE)
    commit = _output("git", "-C", folder, "rev-parse", "--short=12", "HEAD")
    # A package installed inside some other repository is not of that commit.
    tracked = _output("git", "-C", folder, "ls-files", "environment.py")
    if not commit or not tracked:
        return None
    changed = _output("git", "-C", folder, "status", "--porcelain", "-uno")
    return commit + ("+" if changed else "")


def _output(*command: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    return None
