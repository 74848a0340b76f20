"""`keras-metaformer predict`: probabilities or embeddings of images, as a table."""

import contextlib
import csv
import enum
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from keras_metaformer_lite.cli.chosen import chosen_classifier, chosen_target
from keras_metaformer_lite.cli.evaluate import open_chosen
from keras_metaformer_lite.cli.output import FAILED, USAGE, complain, say, stop
from keras_metaformer_lite.data.predicted import as_table, table_row
from keras_metaformer_lite.names import counted

Format = enum.StrEnum("Format", "jsonl csv parquet")


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            help="Image files, directories or glob patterns; - reads a list of files, "
            "one a line, from standard input. With --ray also .parquet tables of "
            "images or paths, and addresses such as s3://bucket/photos/."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A name of `keras-metaformer list`, a .keras or .tflite file, or the "
            "folder of a run."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="Of a model of the list: a tag or a file."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            help="File to write; standard output if left out. With --ray a folder or "
            "address, which gets Parquet files."
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Of the output; by its ending, or jsonl, if left out."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many classes, the most probable ones."),
    ] = None,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="What the last layer is given, instead."),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 32,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images.")
    ] = None,
    unreadable: Annotated[
        Path | None,
        typer.Option(
            help="CSV file for images that cannot be read; beside the output, as "
            "NAME.unreadable.csv, if left out."
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="As a job of Ray Data, on this machine or the cluster of RAY_ADDRESS. "
            "The same command goes on where it ended.",
        ),
    ] = False,
    actors: Annotated[
        int, typer.Option(min=1, help="With --ray: copies of the model.")
    ] = 1,
    cpus: Annotated[
        float, typer.Option(min=0.1, help="With --ray: of each actor.")
    ] = 1,
    gpus: Annotated[
        float, typer.Option(min=0, help="With --ray: likewise, parts of one too.")
    ] = 0,
    part: Annotated[
        int, typer.Option(min=1, help="With --ray: images of a file of the output.")
    ] = 1024,
) -> None:
    """Write a model's probabilities or embeddings of images, one image a row.

    Images that cannot be read go into a table of their own, and the others go on; the
    exit code is then 1.

    Examples:

        keras-metaformer predict photos/ --model run --output found.csv

        find . -name "*.jpg" | keras-metaformer predict - --model run --top 3

        keras-metaformer predict photos/ --model run --embeddings --output e.parquet

        keras-metaformer predict s3://bucket/photos/ --model run --ray --output found
    """
    chosen = chosen_classifier(model, weights)
    if top is not None and embeddings:
        stop("--top is of probabilities, so it goes without --embeddings", USAGE)
    if ray:
        if output is None or format is not None or unreadable is not None:
            stop(
                "--ray writes Parquet files into a folder: give --output, and neither "
                "--format nor --unreadable",
                USAGE,
            )
        _predict_with_ray(
            images,
            chosen,
            output,
            weights=weights,
            embeddings=embeddings,
            top=top,
            batch_size=batch,
            part=part,
            actors=actors,
            cpus=cpus,
            gpus=gpus,
            workers=workers or 0,
        )
        return
    target = None if output is None else Path(output)
    kind = _kind(target, format)
    if target is not None:
        chosen_target(target)
        unreadable = unreadable or target.with_name(f"{target.name}.unreadable.csv")
    if unreadable is not None:
        chosen_target(unreadable)
    files = _files(images)

    classifier = open_chosen(chosen, weights)
    from keras_metaformer.training.prediction import predicted_batches

    lost: list[tuple[str, str]] = []
    try:
        with _writer(target, kind) as writer:
            for found in predicted_batches(
                classifier,
                files,
                embeddings=embeddings,
                batch_size=batch,
                workers=workers,
            ):
                for name, values in zip(found.names, found.values, strict=True):
                    row = table_row(name, values, found.class_names, top, embeddings)
                    writer.write(row)
                lost += found.unreadable
    except ValueError as error:
        stop(error, USAGE)
    except (ImportError, OSError) as error:
        stop(error, FAILED)
    _report(lost, unreadable)


def _predict_with_ray(
    images: list[str], model: str, output: str, **options: Any
) -> None:
    """Runs the job, and says what came of it."""
    missing = [
        package
        for package in ("ray", "pyarrow")
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        stop(
            f"--ray needs {', '.join(missing)}: pip install 'keras-metaformer[ray]'",
            FAILED,
        )
    named: list[str] = []
    for each in images:
        named += sys.stdin.read().splitlines() if each == "-" else [each]
    from keras_metaformer.training.ray_prediction import predict_with_ray

    try:
        found = predict_with_ray(
            model,
            [each for each in named if each.strip()],
            output,
            say=lambda text: say(text, error=True),
            **options,
        )
    except ValueError as error:
        stop(error, USAGE)
    except (ImportError, OSError) as error:
        stop(error, FAILED)
    count = found["images"] + found["unreadable"]
    rate = f", {count / found['seconds']:.4g} images/s" if count else ""
    say(
        f"{counted(count, 'image')} in {found['seconds']:.3g} s{rate}: "
        f"{output}/predictions and {output}/unreadable",
        error=True,
    )
    if found["unreadable"]:
        say(f"{counted(found['unreadable'], 'image')} could not be read", error=True)
        raise typer.Exit(FAILED)


def _kind(output: Path | None, given: Format | None) -> Format:
    suffixes = {".jsonl": Format.jsonl, ".csv": Format.csv, ".parquet": Format.parquet}
    if given is not None:
        kind = given
    elif output is None:
        kind = Format.jsonl
    elif output.suffix.lower() in suffixes:
        kind = suffixes[output.suffix.lower()]
    else:
        stop(
            "--output ends in .jsonl, .csv or .parquet, or --format says what it is. "
            f"Received: {str(output)!r}",
            USAGE,
        )
    if kind == Format.parquet:
        if output is None:
            stop("A Parquet table needs --output", USAGE)
        if importlib.util.find_spec("pyarrow") is None:
            stop("Parquet needs pyarrow: pip install 'keras-metaformer[train]'", FAILED)
    return kind


def _files(images: list[str]) -> list[Path]:
    from keras_metaformer_lite.images import ImageError, expand_images

    named: list[str] = []
    for each in images:
        if each == "-":
            named += [text for text in sys.stdin.read().splitlines() if text.strip()]
        else:
            named.append(each)
    try:
        return expand_images(named)
    except (ImageError, OSError, ValueError) as error:
        stop(error, USAGE)


class _Lines:
    """JSON lines, or CSV."""

    def __init__(self, stream: TextIO, kind: Format) -> None:
        self._stream, self._kind = stream, kind
        self._csv: Any = None

    def write(self, row: dict[str, Any]) -> None:
        if self._kind == Format.jsonl:
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        if self._csv is None:
            self._csv = csv.writer(self._stream, lineterminator="\n")
            self._csv.writerow(row)
        self._csv.writerow(row.values())


class _Parquet:
    """A Parquet table, written group by group."""

    _ROWS = 4096

    def __init__(self, path: Path) -> None:
        self._path, self._rows, self._file = path, [], None

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) == self._ROWS:
            self.flush()

    def flush(self) -> None:
        import pyarrow.parquet as parquet

        if not self._rows:
            return
        table = as_table(self._rows)
        if self._file is None:
            self._file = parquet.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)
        self._rows = []

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


@contextlib.contextmanager
def _writer(output: Path | None, kind: Format) -> Iterator[Any]:
    """What takes the rows; a file is put in place when all are written."""
    from keras_metaformer_lite.weights.disk import replacement

    if output is None:
        yield _Lines(sys.stdout, kind)
        return
    with replacement(output) as temporary:
        if kind == Format.parquet:
            writer = _Parquet(temporary)
            yield writer
            writer.close()
        else:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                yield _Lines(stream, kind)


def _report(lost: list[tuple[str, str]], path: Path | None) -> None:
    if path is not None:
        from keras_metaformer_lite.weights.disk import replacement

        if lost:
            with (
                replacement(path) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as stream,
            ):
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(("image", "reason"))
                writer.writerows(lost)
        else:
            # One of an earlier run would say what is no longer so.
            path.unlink(missing_ok=True)
    for name, reason in lost:
        complain(f"{name}: {reason}")
    if lost:
        where = "" if path is None else f": they are in {path}"
        say(f"{counted(len(lost), 'image')} could not be read{where}", error=True)
        raise typer.Exit(FAILED)
