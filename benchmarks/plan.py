"""What will be compared, checked before anything is measured."""

import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contender import (
    BACKENDS,
    DEFAULT_CONTENDERS,
    DEVICES,
    DTYPES,
    KINDS,
    MODES,
    Case,
    Contender,
    check,
    parse_contender,
    unique,
)
from benchmarks.workers import ROOT
from keras_metaformer.models import families
from keras_metaformer_lite.listing import list_models
from keras_metaformer_lite.processes import run_python
from keras_metaformer_lite.weights.timm_names import timm_name

PEER_PYTHON_VARIABLE = "KERAS_METAFORMER_PEER_PYTHON"
#: Batches where none are asked for.
DEFAULT_BATCHES = {"inference": (1, 4), "training": (8,)}
_HOW_TO_GET_PEERS = (
    "`make peers` in a checkout makes an environment with timm; an interpreter of your "
    f"own is named with --peer-python or {PEER_PYTHON_VARIABLE}"
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cases, each with its contenders.

    Attributes:
        cases: the contenders of each case, in the order of the table.
        baseline: see `make_rows`.
        peer_python: the interpreter that has timm, or None if timm takes no part.
        notes: a line for everything that was left out, with the reason.
    """

    cases: dict[Case, list[Contender]]
    baseline: str
    peer_python: str | None
    notes: list[str]


def make_plan(
    models: Sequence[str],
    contenders: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    modes: Sequence[str] = ("inference",),
    batches: Sequence[int] | None = None,
    dtypes: Sequence[str] = ("float32",),
    devices: Sequence[str] = ("cpu",),
    resolution: int | None = None,
    baseline: str | None = None,
    peer_python: str | None = None,
) -> Plan:
    """Checks what is asked for, and finds what is there.

    Args:
        models: constructors' names, also with wildcards.
        contenders: as `parse_contender` reads them, or None for the usual ones, of
            which those are left out that are not installed.
        backends: for contenders named without one; None for all that are installed.
        modes: of `MODES`.
        batches: images of a call, or None for the mode's usual ones.
        dtypes: of `DTYPES`.
        devices: of `DEVICES`.
        resolution: int. Height and width of the images, or None for each model's own.
        baseline: see `make_rows`; None for the fastest timm, or else the first
            contender.
        peer_python: the interpreter that has timm, or None to look for it.

    Raises:
        ValueError: if something is unknown, or was asked for by name and is not there.
    """
    check("mode", modes, MODES)
    check("dtype", dtypes, DTYPES)
    check("device", devices, DEVICES)
    names = _models(models)
    notes: list[str] = []
    found = _contenders(contenders, _backends(backends), names, peer_python, notes)
    peer = None
    if any(KINDS[each.kind].peer for each in found):
        peer = find_peer_python(peer_python)
    if "gpu" in devices:
        found = _with_gpu(found, peer, backends is None and contenders is None, notes)
    cases: dict[Case, list[Contender]] = {}
    for model in names:
        size = resolution or families.get(model).resolution
        for device in unique(devices):
            for dtype in unique(dtypes):
                for mode in unique(modes):
                    taking_part = _taking_part(found, model, mode, notes)
                    if not taking_part:
                        continue
                    for batch in unique(batches or DEFAULT_BATCHES[mode]):
                        case = Case(model, mode, batch, dtype, device, size)
                        cases[case] = taking_part
    if not cases:
        raise ValueError(
            "Nothing is left to measure: folded models are for inference. "
            f"Received: contenders={contenders}, modes={list(modes)}"
        )
    if baseline is None:
        has_timm = any(each.kind == "timm" for each in found)
        baseline = "timm*" if has_timm else found[0].label
    labels = {each.label for each in found} | {each.name for each in found}
    if not any(character in baseline for character in "*?[") and baseline not in labels:
        raise ValueError(
            f"`baseline` must be one of {sorted(labels)}, or have wildcards. "
            f"Received: baseline={baseline!r}"
        )
    return Plan(cases, baseline, peer, unique(notes))


def _models(patterns: Sequence[str]) -> list[str]:
    names = []
    for pattern in patterns:
        if any(character in pattern for character in "*?["):
            matching = list_models(pattern)
            if not matching:
                raise ValueError(f"No model matches. Received: model={pattern!r}")
            names += matching
        else:
            names.append(families.get(pattern).name)
    return unique(names)


def _backends(asked_for: Sequence[str] | None) -> list[str]:
    """The backends asked for, or all that are installed."""
    installed = [each for each in BACKENDS if importlib.util.find_spec(each)]
    if asked_for is None:
        if not installed:
            raise ValueError(
                f"None of {', '.join(BACKENDS)} is installed: "
                'pip install "keras-metaformer[jax]", for example'
            )
        return installed
    check("backend", asked_for, BACKENDS)
    for backend in asked_for:
        _check_installed(backend)
    return unique(asked_for)


def _check_installed(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        raise ValueError(
            f'{backend} is not installed: pip install "keras-metaformer[{backend}]". '
            f"Received: backend={backend!r}"
        )


def _contenders(
    asked_for: Sequence[str] | None,
    backends: list[str],
    models: list[str],
    peer_python: str | None,
    notes: list[str],
) -> list[Contender]:
    if asked_for:
        found = unique(
            contender
            for text in asked_for
            for contender in parse_contender(text, backends)
        )
        for contender in found:
            if not KINDS[contender.kind].peer:
                _check_installed(contender.backend)
                continue
            find_peer_python(peer_python)
            for model in models:
                if timm_name(model) is None:
                    raise ValueError(
                        f"timm has no {model}. Received: contender={contender.label!r}"
                    )
        return found
    found = []
    for text in DEFAULT_CONTENDERS:
        for contender in parse_contender(text, backends):
            if KINDS[contender.kind].peer:
                try:
                    find_peer_python(peer_python)
                except ValueError as error:
                    if peer_python is not None:
                        raise
                    notes.append(f"timm is left out: {error}")
                    continue
            found.append(contender)
    return unique(found)


def _taking_part(
    contenders: list[Contender], model: str, mode: str, notes: list[str]
) -> list[Contender]:
    """The contenders that there are for a model and a mode."""
    result = []
    for contender in contenders:
        if not contender.takes_part(mode):
            notes.append(
                f"{contender.label} is left out of {mode}: it cannot be trained"
            )
        elif contender.kind == "timm" and timm_name(model) is None:
            notes.append(f"timm is left out for {model}: timm has no such model")
        else:
            result.append(contender)
    return result


@functools.cache
def find_peer_python(asked_for: str | None) -> str:
    """The interpreter that has torch and timm.

    Args:
        asked_for: its path; None for the one in the environment variable
            `KERAS_METAFORMER_PEER_PYTHON`, else that of `.venv-peers` in the current
            directory or in the checkout, else the running one.

    Raises:
        ValueError: if timm is not found.
    """
    asked_for = asked_for or os.environ.get(PEER_PYTHON_VARIABLE)
    if asked_for:
        candidates = [Path(asked_for)]
        if not candidates[0].is_file():
            raise ValueError(
                "`peer_python` must be the path of a Python interpreter. "
                f"Received: peer_python={asked_for!r}"
            )
    else:
        inside = (
            ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
        )
        folders = (Path.cwd(), ROOT)
        candidates = [folder.joinpath(".venv-peers", *inside) for folder in folders]
        candidates.append(Path(sys.executable))
    for candidate in candidates:
        # Not resolved: the path of a virtual environment's link tells it who it is.
        if candidate.is_file() and _has_timm(candidate):
            return str(candidate)
    raise ValueError(
        f"timm and torch are not installed: {_HOW_TO_GET_PEERS}. "
        f"Received: peer_python={asked_for!r}"
    )


def _has_timm(python: Path) -> bool:
    code = (
        "import importlib.util, sys\n"
        "sys.exit(any(importlib.util.find_spec(m) is None for m in ('torch', 'timm')))"
    )
    try:
        finished = run_python("-c", code, interpreter=python, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return finished.returncode == 0


#: Prints how many GPUs a backend sees.
_COUNT_GPUS = {
    "tensorflow": "import tensorflow as tf\n"
    "print(len(tf.config.list_physical_devices('GPU')))",
    "jax": "import jax\n"
    "print(sum(each.platform in ('gpu', 'cuda') for each in jax.devices()))",
    "torch": "import torch\nprint(torch.cuda.device_count())",
}


def _with_gpu(
    contenders: list[Contender], peer: str | None, lenient: bool, notes: list[str]
) -> list[Contender]:
    """The contenders whose backend sees a GPU.

    Raises:
        ValueError: if one does not and was asked for, or if none does.
    """
    seeing = []
    for contender in contenders:
        python = peer if contender.kind == "timm" else sys.executable
        assert python is not None
        if _counts_gpus(python, contender.backend):
            seeing.append(contender)
            continue
        message = f"{contender.backend} in {python} sees no GPU"
        if not lenient:
            raise ValueError(f"{message}. Received: device='gpu'")
        notes.append(f"{contender.label} is left out: {message}")
    if not seeing:
        raise ValueError("No backend sees a GPU. Received: device='gpu'")
    return seeing


@functools.cache
def _counts_gpus(python: str, backend: str) -> bool:
    finished = run_python("-c", _COUNT_GPUS[backend], interpreter=python, timeout=300)
    lines = finished.stdout.split()
    return finished.returncode == 0 and bool(lines) and lines[-1] != "0"
