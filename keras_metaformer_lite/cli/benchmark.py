"""`keras-metaformer benchmark`: which form of a model is the fastest here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer_lite.cli.chosen import chosen_model_or_file
from keras_metaformer_lite.cli.output import (
    FAILED,
    USAGE,
    line,
    print_json,
    print_rich,
    say,
    stop,
    table,
)


def benchmark(
    model: Annotated[
        str,
        typer.Option(help="A name of `keras-metaformer list`, or a .keras file."),
    ] = "CAFormerS18",
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            "-f",
            help="tensorflow-eager, tensorflow-compiled, jax-eager, jax-compiled, "
            "torch-eager, torch-compiled, litert, onnxruntime, openvino, saved-model, "
            "pt2 or stablehlo, also with the "
            "wildcards * and ?; all that are installed if left out.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images of a call; 1 if left out.")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Threads of the processor; what each library takes by itself if left "
            "out, LiteRT one for each core.",
        ),
    ] = None,
    resolution: Annotated[
        int | None,
        typer.Option(min=1, help="Height and width in pixels, if not the model's own."),
    ] = None,
    fold: Annotated[
        bool, typer.Option(help="Run the folded model in Keras too (`km.fold`).")
    ] = False,
    repetitions: Annotated[int, typer.Option(min=1, help="Turns of each form.")] = 9,
    minimum_seconds: Annotated[
        float, typer.Option(min=0, help="A turn repeats shorter calls for this time.")
    ] = 0.2,
    timeout: Annotated[
        float, typer.Option(help="Seconds that compiling, or one turn, may take.")
    ] = 1800.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find out which form of a model is the fastest on this machine.

    Every form lives in a process of its own, and they take turns, so that another load
    on the machine hits all alike. A call goes from NumPy images to NumPy results. A
    model of the list has random weights, which take as long as any others.

    Examples:

        keras-metaformer benchmark --model ConvFormerS18 --batch 1 --batch 8

        keras-metaformer benchmark --model mine.keras -f "torch*" -f litert --threads 2
    """
    from keras_metaformer_lite.benchmark.forms import Job, missing_modules, start_worker
    from keras_metaformer_lite.benchmark.turns import compare

    chosen = _forms(form)
    missing = {name: missing_modules(name) for name in chosen}
    name = _model(model)
    rows: list[dict[str, Any]] = []
    for images in batch or [1]:
        jobs = [
            Job(each, name, images, count, resolution, fold, minimum_seconds)
            for each in chosen
            if not missing[each]
            for count in threads or [None]
        ]
        outcomes = compare(
            jobs,
            start_worker(timeout),
            repetitions,
            progress=lambda message: say(f"  {message}", error=True),
        )
        found = _rows(outcomes) + [
            _not_installed(each, images, modules)
            for each, modules in missing.items()
            if modules
        ]
        rows += found
        if not json:
            print_rich(_table(f"{line(Path(name).name)}, batch {images}", found))
    advice = _advice(rows)
    if json:
        print_json({"model": name, "rows": rows, "recommendation": advice})
    elif advice:
        say(advice)
    failed = [row for row in rows if row["status"] not in ("ok", "not installed")]
    if failed:
        stop(f"{len(failed)} of {len(rows)} forms failed", FAILED)
    if not advice:
        stop("No form could be measured", FAILED)


def _forms(patterns: list[str] | None) -> list[str]:
    import fnmatch

    from keras_metaformer_lite.benchmark.forms import FORMS

    if not patterns:
        return list(FORMS)
    for pattern in patterns:
        if not fnmatch.filter(FORMS, pattern):
            stop(
                f"A form must be one of {', '.join(FORMS)}. Received: form={pattern!r}",
                USAGE,
            )
    return [
        name
        for name in FORMS
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _model(text: str) -> str:
    """The name of a constructor, or the path of a file."""
    chosen = chosen_model_or_file(text, ".keras")
    return text if isinstance(chosen, Path) else chosen.name


def _rows(outcomes: list[Any]) -> list[dict[str, Any]]:
    """A row for each outcome of one batch size."""
    from statistics import median

    from keras_metaformer_lite.benchmark.turns import quartiles

    times = {
        outcome.job.label: [1e3 * turn["seconds"] for turn in outcome.turns]
        for outcome in outcomes
        if outcome.status == "ok"
    }
    fastest = min(times.values(), key=median, default=[])
    rows = []
    for outcome in outcomes:
        job, found = outcome.job, times.get(outcome.job.label)
        row: dict[str, Any] = {
            "form": job.form,
            "threads": job.threads,
            "batch": job.batch,
            "status": outcome.status,
            "message": outcome.message,
        }
        if found:
            first, middle, third = quartiles(found)
            memory = outcome.memory.get("peak_memory")
            row |= {
                "resolution": outcome.memory.get("resolution"),
                "median_ms": middle,
                "q1_ms": first,
                "q3_ms": third,
                "images_per_s": 1e3 * job.batch / middle,
                # Within each round, which a changing load disturbs less.
                "ratio": median(a / b for a, b in zip(found, fastest, strict=True)),
                "prepare_s": outcome.ready["build_s"] + outcome.ready["compile_s"],
                "memory_mib": memory and memory / 2**20,
            }
        rows.append(row)
    return rows


def _not_installed(form: str, batch: int, modules: list[str]) -> dict[str, Any]:
    from keras_metaformer_lite.benchmark.forms import FORMS

    return {
        "form": form,
        "threads": None,
        "batch": batch,
        "status": "not installed",
        "message": f"{', '.join(modules)}: "
        f'pip install "keras-metaformer[{FORMS[form].extra}]"',
    }


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    columns = {
        "ms": "{median_ms:.1f}",
        "quartiles": "{q1_ms:.1f}-{q3_ms:.1f}",
        "images/s": "{images_per_s:.4g}",
        "ratio": "{ratio:.2f}",
        "prepare s": "{prepare_s:.1f}",
        "MiB": "{memory_mib:.0f}",
    }
    result = table("form", "threads", *columns, "note", numbers=tuple(columns))
    result.title = title
    result.title_justify = "left"
    for row in rows:
        cells = [""] * len(columns)
        note = line(f"{row['status']}: {row['message']}")
        if row["status"] == "ok":
            note = ""
            known = row | {"memory_mib": row["memory_mib"] or float("nan")}
            cells = [text.format(**known) for text in columns.values()]
        result.add_row(row["form"], str(row["threads"] or "all"), *cells, note)
    return result


def _advice(rows: list[dict[str, Any]]) -> str:
    """One line: the fastest form for each batch size, and how to have it."""
    from keras_metaformer_lite.benchmark.forms import FORMS

    parts = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        measured = [
            row for row in rows if row["batch"] == batch and row["status"] == "ok"
        ]
        if not measured:
            continue
        best = min(measured, key=lambda row: row["median_ms"])
        level = [
            _label(row)
            for row in measured
            if row is not best and row["q1_ms"] <= best["q3_ms"]
        ]
        parts.append(
            f"batch {batch}: {_label(best)}, {best['median_ms']:.1f} ms "
            f"({FORMS[best['form']].how})"
            + (f", no faster than {', '.join(level)} for sure" if level else "")
        )
    return "Fastest with " + "; with ".join(parts) if parts else ""


def _label(row: dict[str, Any]) -> str:
    threads = row["threads"]
    return row["form"] + (f" on {threads} threads" if threads else "")
