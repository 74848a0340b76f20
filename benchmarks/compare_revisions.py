"""The speed of two revisions of this package, in interleaved turns.

    python -m benchmarks.compare_revisions BASE            # against the working tree
    python -m benchmarks.compare_revisions BASE HEAD --csv ratios.csv
    python -m benchmarks.compare_revisions BASE BASE       # what chance alone does

Each of the two is a git revision, or the folder of a checkout. Its package is copied
to a temporary folder, so that nothing in the repository is touched and the files may
change meanwhile. For every model, batch and backend a process of each revision lives at
the same time, and they take turns; all of that several times over with fresh processes,
as the same program may be a tenth faster or slower from one process to the next. The
ratio is the time of the second over that of the first within a round; the table shows
its median and quartiles over all rounds, and the median of each pair of processes.
"""

import csv
import dataclasses
import io
import itertools
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.contender import (
    BACKENDS,
    MODES,
    Case,
    Contender,
    Job,
    check,
    parse_contender,
)
from benchmarks.environment import describe_environment
from benchmarks.workers import ROOT, contender_command, worker_environment
from keras_metaformer.benchmark.turns import (
    Outcome,
    WorkerProcess,
    compare,
    quartiles,
)
from keras_metaformer.cli.output import (
    FAILED,
    USAGE,
    print_json,
    print_rich,
    stop,
    table,
)
from scripts.page import replace

PACKAGE = "keras_metaformer"


def take_copy(tree: str, folder: Path) -> str:
    """Puts the package of a revision or of a checkout into a folder.

    Args:
        tree: a git revision of this repository, or the folder of a checkout.
        folder: an existing, empty folder.

    Returns:
        What the copy is of: the commit, with `+` if the checkout differs from it.

    Raises:
        ValueError: if it is neither, or has no package.
    """
    if Path(tree).is_dir():
        checkout = Path(tree).resolve()
        # What git would keep, the untracked too: no caches, no built files.
        names = _git(checkout, "ls-files", "-z", "-co", "--exclude-standard", PACKAGE)
        for name in filter(None, names.decode().split("\0")):
            if (checkout / name).is_file():  # not one that was deleted
                copy = folder / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes((checkout / name).read_bytes())
        commit = _git(checkout, "rev-parse", "--short=12", "HEAD").decode().strip()
        if _git(checkout, "status", "--porcelain", PACKAGE):
            commit += "+"
    else:
        resolved = _git(
            ROOT, "rev-parse", "--short=12", "--verify", f"{tree}^{{commit}}"
        )
        commit = resolved.decode().strip()
        archive = _git(ROOT, "archive", commit, PACKAGE)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
    if not (folder / PACKAGE / "__init__.py").is_file():
        raise ValueError(f"There is no {PACKAGE}/ in it. Received: {tree!r}")
    return commit


def _git(folder: Path, *arguments: str) -> bytes:
    finished = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True
    )
    if finished.returncode:
        raise ValueError(
            "A git revision or the folder of a checkout is wanted: "
            f"{finished.stderr.decode(errors='replace').strip()}"
        )
    return finished.stdout


@dataclasses.dataclass(frozen=True)
class RevisionJob(Job):
    """A contender's part in a case, with the package of one revision.

    Attributes:
        revision: its name in messages.
        folder: where the package stands.
    """

    revision: str = ""
    folder: str = ""

    @property
    def label(self) -> str:
        """Such as `"before: ours@jax"`."""
        return f"{self.revision}: {self.contender.label}"


def measure(
    folders: Sequence[Path],
    case: Case,
    contender: Contender,
    repetitions: int,
    timeout: float,
    minimum_seconds: float,
    progress: Any,
) -> list[Outcome]:
    """One process of each revision, in turns; the outcomes before and after.

    Raises:
        RuntimeError: if a process measured another package than it was given.
    """
    jobs = [
        RevisionJob(contender, case, minimum_seconds, revision, str(folder))
        for revision, folder in zip(("before", "after"), folders, strict=True)
    ]

    def start(job: RevisionJob) -> WorkerProcess:
        command = contender_command(job, None, Path(job.folder))
        return WorkerProcess(command, worker_environment(job), timeout)

    outcomes = compare(jobs, start, repetitions, progress)
    for outcome in outcomes:
        found = outcome.memory.get("package")
        if outcome.status == "ok" and Path(found).parent != Path(outcome.job.folder):
            raise RuntimeError(f"{outcome.job.label} ran the package in {found}")
    return outcomes


def cases(
    models: Sequence[str], batches: Sequence[int], resolution: int, mode: str
) -> Iterator[Case]:
    """Every model with every batch, float32 on the CPU."""
    for model, batch in itertools.product(models, batches):
        yield Case(model, mode, batch, "float32", "cpu", resolution)


def make_row(
    case: Case, contender: Contender, pairs: Sequence[Sequence[Outcome]]
) -> dict[str, Any]:
    """The row of one case on one backend.

    Args:
        case: what was measured.
        contender: by what.
        pairs: of outcomes before and after, for each pair of processes.
    """
    row: dict[str, Any] = {
        "model": case.model,
        "mode": case.mode,
        "batch": case.batch,
        "resolution": case.resolution,
        "contender": contender.label,
        "message": "; ".join(
            dict.fromkeys(
                f"{outcome.job.revision}: {outcome.status}: {outcome.message}"
                for outcome in itertools.chain(*pairs)
                if outcome.status != "ok"
            )
        ),
    }
    times = [
        [[turn["seconds"] for turn in outcome.turns] for outcome in pair]
        for pair in pairs
        if all(outcome.status == "ok" for outcome in pair)
    ]
    if not times:
        return row
    ratios = [
        [b / a for a, b in zip(before, after, strict=True)] for before, after in times
    ]
    first, median, third = quartiles(list(itertools.chain(*ratios)))
    before, after = (
        1e3 * statistics.median(itertools.chain(*(pair[which] for pair in times)))
        for which in (0, 1)
    )
    return row | {
        "before_ms": round(before, 3),
        "after_ms": round(after, 3),
        "ratio": round(median, 4),
        "ratio_q1": round(first, 4),
        "ratio_q3": round(third, 4),
        "rounds": sum(map(len, ratios)),
        "ratio_of_each_pair": " ".join(
            f"{statistics.median(pair):.3f}" for pair in ratios
        ),
    }


def _table(rows: Sequence[dict[str, Any]], title: str) -> Any:
    columns = {
        "before ms": "{before_ms:.1f}",
        "after ms": "{after_ms:.1f}",
        "after / before": "{ratio:.3f}",
        "quartiles": "{ratio_q1:.3f}-{ratio_q3:.3f}",
        "of each pair": "{ratio_of_each_pair}",
    }
    result = table("model", "batch", "contender", *columns, "note", numbers=(*columns,))
    result.title, result.title_justify = title, "left"
    for row in rows:
        cells = [
            text.format(**row) if "ratio" in row else "" for text in columns.values()
        ]
        names = (row["model"], str(row["batch"]), row["contender"])
        result.add_row(*names, *cells, row["message"])
    return result


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes the rows whole or not at all."""
    text = io.StringIO()
    columns = dict.fromkeys(itertools.chain(*rows))
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace(path, text.getvalue())


def main(
    base: Annotated[str, typer.Argument(help="A git revision or a checkout: before.")],
    head: Annotated[
        str, typer.Argument(help="Likewise: after; `.` is this checkout.")
    ] = ".",
    model: Annotated[
        list[str] | None,
        typer.Option(help="Constructors; ConvFormerS18 and CAFormerS18 if left out."),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images of a call; else 1 and 4.")
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", "-b", help="tensorflow, jax, torch; else all three."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Of `ours` in `python -m benchmarks`: folded, compile, ..."),
    ] = None,
    mode: Annotated[str, typer.Option(help="inference or training.")] = "inference",
    resolution: Annotated[int, typer.Option(min=1, help="Pixels.")] = 224,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Rounds of each pair of processes.")
    ] = 15,
    processes: Annotated[
        int, typer.Option(min=1, help="Pairs of processes, one after the other.")
    ] = 3,
    tolerance: Annotated[
        float, typer.Option(help="Exit code 1 if a ratio is larger than 1 plus this.")
    ] = 0.03,
    minimum_seconds: Annotated[
        float, typer.Option(min=0, help="A turn repeats shorter calls for this time.")
    ] = 0.2,
    timeout: Annotated[
        float, typer.Option(help="Seconds that compiling, or one turn, may take.")
    ] = 1800.0,
    csv_file: Annotated[
        Path | None,
        typer.Option("--csv", help="Write all rows here, with the machine."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the speed of two revisions of this package, in interleaved turns."""
    try:
        check("mode", [mode], MODES)
        check("backend", backend or (), BACKENDS)
        contenders = parse_contender(
            "+".join(["ours", *(option or ())]), backend or BACKENDS
        )
    except ValueError as error:
        stop(error, USAGE)
    contenders = [each for each in contenders if each.takes_part(mode)]
    if not contenders:
        stop(f"Folded models cannot be trained. Received: option={option}", USAGE)
    work = [
        (case, contender)
        for case in cases(
            model or ("ConvFormerS18", "CAFormerS18"), batch or (1, 4), resolution, mode
        )
        for contender in contenders
    ]
    environment = describe_environment()
    del environment["revision"]
    # Every pass goes over all of the work: a row's pairs are far apart in time.
    pairs: dict[Any, list[list[Outcome]]] = {each: [] for each in work}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as name:
        folders = [Path(name, each).resolve() for each in ("before", "after")]
        commits = []
        for folder, tree in zip(folders, (base, head), strict=True):
            folder.mkdir()
            try:
                commits.append(take_copy(tree, folder))
            except ValueError as error:
                stop(error, USAGE)
        for number in range(processes):
            for place, (case, contender) in enumerate(work, start=1):
                typer.echo(
                    f"pass {number + 1} of {processes}, {place} of {len(work)}: "
                    f"{case.model}, batch {case.batch}, {contender.label}",
                    err=True,
                )
                pairs[case, contender].append(
                    measure(
                        folders,
                        case,
                        contender,
                        repetitions,
                        timeout,
                        minimum_seconds,
                        lambda message: typer.echo(f"  {message}", err=True),
                    )
                )
                rows = [
                    make_row(*each, found) for each, found in pairs.items() if found
                ]
                about = {"before": commits[0], "after": commits[1], **environment}
                if csv_file is not None:
                    write_csv([row | about for row in rows], csv_file)
    if json:
        print_json([row | about for row in rows])
    else:
        print_rich(_table(rows, f"{commits[0]} before, {commits[1]} after"))
    slower = [row for row in rows if row.get("ratio", 0) > 1 + tolerance]
    failed = [row for row in rows if row["message"]]
    if slower or failed:
        stop(
            f"{len(slower)} of {len(rows)} rows are slower by more than "
            f"{tolerance:.0%}, {len(failed)} failed",
            FAILED,
        )


app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
app.command()(main)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks.compare_revisions")
