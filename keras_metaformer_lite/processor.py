"""What the processor is, as Linux tells it, and what follows for TensorFlow."""

import functools
import platform
from pathlib import Path

#: TensorFlow reads it when it is imported: `1` has oneDNN's operations, `0` has not.
ONE_DNN_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"


@functools.cache
def _information() -> dict[str, str]:
    """The first processor's entries in `/proc/cpuinfo`; none on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def vendor() -> str:
    """Such as `"GenuineIntel"` or `"AuthenticAMD"`; empty if unknown."""
    return _information().get("vendor_id", "")


def flags() -> frozenset[str]:
    """The names of an x86 processor's abilities, such as `"avx2"`; none if unknown."""
    return frozenset(_information().get("flags", "").split())


def gains_from_one_dnn() -> bool:
    """Whether TensorFlow is faster here with oneDNN than without.

    On x86 processors with AVX2 it is; TensorFlow turns it on by itself on some of them
    only. True on Linux alone: elsewhere TensorFlow's builds have it always or never.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and "avx2" in flags()
