"""The comparison with other libraries: `python -m benchmarks`.

See `benchmarks/README.md`.
"""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.chart import write_chart
from benchmarks.contender import Job
from benchmarks.environment import describe_environment
from benchmarks.plan import PEER_PYTHON_VARIABLE, make_plan
from benchmarks.rows import make_rows, write_csv
from benchmarks.workers import start_worker
from keras_metaformer_lite.benchmark.turns import compare
from keras_metaformer_lite.cli.output import (
    FAILED,
    USAGE,
    print_json,
    print_rich,
    stop,
    table,
)


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of `keras-metaformer list`, with the wildcards * and ?; "
            "ConvFormerS18, CAFormerS18 and PoolFormerV2S12 if left out."
        ),
    ] = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(
            "--contender",
            "-c",
            help="KIND[+OPTION...][@BACKEND]: `ours` (options folded, no_fast_paths, "
            "xla, compile), `stock` (our model of stock Keras layers), `convnext` "
            "(keras.applications.ConvNeXtTiny), `timm` (options compile, "
            "channels_last), `roofline` (the matrix products alone). All if left out.",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            "--backend",
            "-b",
            help="tensorflow, jax or torch; all that are installed if left out.",
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="inference (if left out) or training (AdamW, fit's step)."),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Images of a call; if left out 1 and 4, in training 8."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="A Keras dtype policy: float32 (if left out), mixed_bfloat16 or "
            "mixed_float16 (weights in float32; autocast in timm), bfloat16 or float16 "
            "(the whole model)."
        ),
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu (if left out) or gpu.")
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width in pixels; else each model's own."),
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 9,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="What the times are divided by: a contender; without @BACKEND that of "
            "the same backend; with wildcards the fastest that matches. If left out "
            "`timm*`, or else the first contender."
        ),
    ] = None,
    peer_python: Annotated[
        str | None,
        typer.Option(
            envvar=PEER_PYTHON_VARIABLE,
            help="The Python interpreter that has torch and timm; .venv-peers, as "
            "`make peers` makes it, is found without.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write all numbers here, with the machine.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(help="Write a chart here, as PNG.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds that compiling, or one turn, may take.")
    ] = 1800.0,
    minimum_seconds: Annotated[
        float, typer.Option(min=0, help="A turn repeats shorter calls for this time.")
    ] = 0.2,
    hurry: Annotated[
        bool,
        typer.Option(
            "--hurry",
            help="Prepare torch's contenders at once, where time on the machine is "
            "dear: the compile times then say little.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure latency, throughput, compile time and memory, beside other libraries.

    Every contender lives in a process of its own, and they take turns, so that another
    load on the machine hits all alike: compare the rows of one run only. Leave the
    machine alone meanwhile; `others` in the table says how many cores it was not.

    Examples:

        python -m benchmarks CAFormerS18 --csv results.csv --chart results.png

        python -m benchmarks --mode training -c ours -c stock --baseline stock

        python -m benchmarks --device gpu --dtype bfloat16 --batch 256
    """
    if chart is not None and importlib.util.find_spec("matplotlib") is None:
        stop('--chart needs matplotlib: pip install "keras-metaformer[demo]"', USAGE)
    try:
        plan = make_plan(
            models or ["ConvFormerS18", "CAFormerS18", "PoolFormerV2S12"],
            contender or None,
            backend or None,
            mode or ["inference"],
            batch or None,
            dtype or ["float32"],
            device or ["cpu"],
            resolution,
            baseline,
            peer_python,
        )
        for path in (csv, chart):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        stop(error, USAGE)
    for note in plan.notes:
        typer.echo(note, err=True)
    environment = describe_environment()
    rows: list[dict[str, Any]] = []
    for number, (case, contenders) in enumerate(plan.cases.items(), start=1):
        typer.echo(f"{number} of {len(plan.cases)}: {_title(case)}", err=True)
        outcomes = compare(
            [Job(each, case, minimum_seconds) for each in contenders],
            start_worker(timeout, plan.peer_python),
            repetitions,
            progress=lambda message: typer.echo(f"  {message}", err=True),
            # XLA chooses kernels of a GPU by their time, and so prepares alone.
            together=lambda job: hurry and job.contender.backend == "torch",
        )
        found = make_rows(outcomes, plan.baseline, environment)
        rows += found
        if csv is not None:
            write_csv(rows, csv)  # After each case: hours may be lost otherwise.
        if not json:
            print_rich(_table(_title(case), found))
    if json:
        print_json(rows)
    measured = [row for row in rows if row["status"] == "ok"]
    if chart is not None and measured:
        write_chart(rows, chart)
    if len(measured) < len(rows):
        stop(
            f"{len(rows) - len(measured)} of {len(rows)} rows were not measured", FAILED
        )


def _title(case: Any) -> str:
    return (
        f"{case.model}, {case.mode}, batch {case.batch}, {case.dtype}, {case.device}, "
        f"{case.resolution} pixels"
    )


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    columns = {
        "ms": lambda row: f"{row['median_ms']:.1f}",
        "quartiles": lambda row: f"{row['q1_ms']:.1f}-{row['q3_ms']:.1f}",
        "images/s": lambda row: f"{row['images_per_s']:.4g}",
        "ratio": lambda row: f"{row['ratio']:.2f}",
        "paired": lambda row: f"{row['paired_ratio']:.2f}",
        "/ roofline": lambda row: f"{row['roofline_ratio']:.2f}",
        "compile s": lambda row: f"{row['compile_s']:.1f}",
        "MiB": lambda row: f"{row['memory_mib']:.0f}",
        "device MiB": lambda row: f"{row['device_memory_mib']:.0f}",
        "others": lambda row: f"{row['other_load']:.2f}",
    }
    result = table("contender", *columns, "note", numbers=tuple(columns))
    result.title = title
    result.title_justify = "left"
    for row in rows:
        note = ""
        if row["status"] != "ok":
            note = f"{row['status']}: {row['message']}"
        elif row["baseline"] == row["contender"]:
            note = "baseline"
        cells = [_cell(text, row) for text in columns.values()]
        result.add_row(row["contender"], *cells, note)
    return result


def _cell(text: Any, row: dict[str, Any]) -> str:
    try:
        return text(row)
    except TypeError:  # Not known, so None.
        return ""


app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
app.command()(benchmark)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
