"""From outcomes to the rows of the table, and the file that keeps them."""

import csv
import dataclasses
import fnmatch
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_metaformer_lite.benchmark.turns import Outcome, quartiles

Row = dict[str, Any]

#: The columns of the CSV, in order. Times are of one call: one batch.
COLUMNS = (
    # what was measured
    *("model", "mode", "batch", "dtype", "device", "resolution"),
    *("contender", "backend", "status", "message"),
    # milliseconds of a call over the repetitions, and images per second at the median
    *("median_ms", "min_ms", "q1_ms", "q3_ms", "max_ms", "images_per_s"),
    # median / the baseline's median; the median of the ratios within each round
    *("baseline", "ratio", "paired_ratio"),
    # median / the median of the matrix products alone
    *("roofline", "roofline_ratio"),
    # seconds to make the model; of the first calls beyond the later ones
    *("build_s", "compile_s"),
    # peak resident memory of the process; peak of the device's memory
    *("memory_mib", "device_memory_mib"),
    # processor time per second: of all threads in a turn, of this process between its
    # turns, and of other programs during its turns
    *("processor_load", "waiting_load", "other_load"),
    *("repetitions", "calls_per_repetition", "times_ms"),
    # on what
    *("device_name", "cpu", "cores", "ram_gib", "os", "load_before", "variables"),
    *("python", "keras", "tensorflow", "jax", "torch", "timm", "numpy"),
    *("keras_metaformer", "revision", "date"),
)


def make_rows(
    outcomes: Sequence[Outcome], baseline: str, environment: dict[str, Any]
) -> list[Row]:
    """A row for each outcome of one case.

    Args:
        outcomes: of one comparison.
        baseline: the contender that the others are divided by: a label; a name without
            backend, for that of the row's own backend; or either with wildcards, for
            the fastest that matches. Rows have no ratio if there is none.
        environment: as `describe_environment` gives it.
    """
    measured = {
        outcome.job.contender.label: _times(outcome)
        for outcome in outcomes
        if outcome.status == "ok" and outcome.turns
    }
    rooflines = {
        label.partition("@")[2]: label
        for label in measured
        if label.startswith("roofline")
    }
    return [
        _row(outcome, measured, baseline, rooflines, environment)
        for outcome in outcomes
    ]


def _times(outcome: Outcome) -> list[float]:
    """Milliseconds of a call in each round."""
    return [1e3 * turn["seconds"] for turn in outcome.turns]


def _row(
    outcome: Outcome,
    measured: dict[str, list[float]],
    baseline: str,
    rooflines: dict[str, str],
    environment: dict[str, Any],
) -> Row:
    contender = outcome.job.contender
    ready, turns = outcome.ready, outcome.turns
    row: Row = dict.fromkeys(COLUMNS)
    row.update(dataclasses.asdict(outcome.job.case))
    row.update(environment)
    row.update(ready.get("versions", {}))
    row.update(
        contender=contender.label,
        backend=contender.backend,
        status=outcome.status,
        message=outcome.message or None,
        python=ready.get("python"),
        device_name=outcome.memory.get("device_name"),
        build_s=_rounded(ready.get("build_s"), 2),
        compile_s=_rounded(ready.get("compile_s"), 2),
        memory_mib=_mebibytes(outcome.memory.get("peak_memory")),
        device_memory_mib=_mebibytes(outcome.memory.get("peak_device_memory")),
        repetitions=len(turns),
        calls_per_repetition=ready.get("calls"),
    )
    times = measured.get(contender.label)
    if times is None:
        return row
    first, median, third = quartiles(times)
    row.update(
        median_ms=_rounded(median, 3),
        min_ms=_rounded(min(times), 3),
        q1_ms=_rounded(first, 3),
        q3_ms=_rounded(third, 3),
        max_ms=_rounded(max(times), 3),
        times_ms=" ".join(f"{time:.3f}" for time in times),
        images_per_s=_rounded(1e3 * outcome.job.case.batch / median, 2),
        processor_load=_mean(
            [turn["processor_seconds"] / turn["seconds"] for turn in turns]
        ),
        waiting_load=_mean([turn["waiting_load"] for turn in turns]),
        other_load=_mean([turn["other_load"] for turn in turns]),
    )
    divisor = find_baseline(baseline, contender.backend, measured)
    if divisor is not None:
        others = measured[divisor]
        row["baseline"] = divisor
        row["ratio"] = _rounded(median / statistics.median(others), 3)
        # Both were measured in every round, or they would not be in `measured`.
        row["paired_ratio"] = _rounded(
            statistics.median(a / b for a, b in zip(times, others, strict=True)), 3
        )
    # Its own backend's products, or else the fastest.
    roofline = rooflines.get(contender.backend) or min(
        rooflines.values(),
        key=lambda label: statistics.median(measured[label]),
        default=None,
    )
    if roofline is not None:
        row["roofline"] = roofline
        row["roofline_ratio"] = _rounded(
            median / statistics.median(measured[roofline]), 3
        )
    return row


def find_baseline(
    baseline: str, backend: str, measured: dict[str, list[float]]
) -> str | None:
    """The label of the contender that a row of a backend is divided by, if measured."""
    for wanted in (baseline, f"{baseline}@{backend}"):
        found = [label for label in measured if fnmatch.fnmatchcase(label, wanted)]
        if found:
            return min(found, key=lambda label: statistics.median(measured[label]))
    return None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.mean(known), 4) if known else None


def _mebibytes(value: float | None) -> float | None:
    return None if value is None else round(value / 2**20, 1)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows, first under a temporary name; what is None becomes empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
