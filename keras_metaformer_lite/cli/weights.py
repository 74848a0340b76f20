"""`keras-metaformer weights`: look at, fill and empty the cache of weights."""

import dataclasses
import functools
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, ParamSpec, TypeVar

import typer

from keras_metaformer_lite.cli.output import FAILED, USAGE, print_json, stop
from keras_metaformer_lite.weights import cache, catalogue

app = typer.Typer(
    help="Published weights, and their files in the local cache.",
    no_args_is_help=True,
)

P = ParamSpec("P")
R = TypeVar("R")


class Source(StrEnum):
    """Which file is taken: timm's safetensors where there is one, or the first."""

    auto = "auto"
    official = "official"


Name = Annotated[str, typer.Argument(help="Constructor, such as ConvFormerS18.")]
OptionalName = Annotated[
    str | None, typer.Argument(help="Constructor, such as ConvFormerS18; else all.")
]
OptionalTag = Annotated[
    str | None, typer.Argument(help="Tag, such as imagenet_384; else all of them.")
]
DefaultTag = Annotated[
    str | None, typer.Argument(help="Tag; else the constructor's default.")
]
WithSource = Annotated[
    Source, typer.Option(help="`official` takes the original file even so.")
]


def _explained(command: Callable[P, R]) -> Callable[P, R]:
    """Makes errors of the network and the disk one line, and status 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            stop(error, FAILED)

    return run


@app.command("list")
@_explained
def list_(
    name: OptionalName = None,
    tag: OptionalTag = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the published weights, one a line."""
    chosen = _chosen(name, tag)
    if json:
        rows = [
            dataclasses.asdict(checkpoint)
            | {"cached": cache.cached_source(checkpoint) is not None}
            for checkpoint in chosen
        ]
        print_json(rows)
        return
    line = "{:18} {:22} {:>10} {:>7} {:>6} {:>9}  {}"
    typer.echo(
        line.format("name", "tag", "resolution", "classes", "top-1", "parameters", "")
    )
    for checkpoint in chosen:
        typer.echo(
            line.format(
                checkpoint.constructor,
                checkpoint.tag,
                checkpoint.resolution,
                checkpoint.classes,
                _or_dash(checkpoint.top1, "{:.1f}"),
                _or_dash(checkpoint.parameters_millions, "{:.1f} M"),
                "cached" if cache.cached_source(checkpoint) else "",
            ).rstrip()
        )


@app.command()
@_explained
def fetch(name: Name, tag: DefaultTag = None, source: WithSource = Source.auto) -> None:
    """Download weights, unless they are cached; print their path."""
    typer.echo(cache.ensure_source(_one(name, tag), source.value))


@app.command()
@_explained
def path(
    name: OptionalName = None,
    tag: DefaultTag = None,
    source: WithSource = Source.auto,
) -> None:
    """Print the cache folder, or the path of cached weights."""
    if name is None:
        typer.echo(cache.cache_folder())
        return
    checkpoint = _one(name, tag)
    file = cache.cached_source(checkpoint, source.value)
    if file is None:
        raise ValueError(
            "Not cached; `keras-metaformer weights fetch` gets it. "
            f"Received: name={checkpoint.constructor!r}, tag={checkpoint.tag!r}"
        )
    typer.echo(file)


@app.command()
@_explained
def verify(name: OptionalName = None, tag: OptionalTag = None) -> None:
    """Compare cached weights with their recorded SHA-256; status 1 if any differ."""
    chosen = {(c.constructor, c.tag) for c in _chosen(name, tag)}
    damaged = 0
    for checkpoint, source in cache.cached_checkpoints():
        if (checkpoint.constructor, checkpoint.tag) not in chosen:
            continue
        try:
            file = cache.verify(checkpoint, source)
        except cache.CacheError as error:
            damaged += 1
            typer.echo(f"Error: {error}", err=True)
        else:
            typer.echo(f"ok {file}")
    if damaged:
        raise typer.Exit(1)


@app.command()
@_explained
def clear(
    name: OptionalName = None,
    tag: OptionalTag = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove downloaded weights and what is recorded of them.

    Files placed by hand stay, and so does the Hugging Face hub's own cache.
    """
    if name is None and not yes:
        typer.confirm(f"Remove all weights in {cache.cache_folder()}?", abort=True)
    for checkpoint in _chosen(name, tag):
        for file in cache.clear(checkpoint):
            typer.echo(f"removed {file}")


def _chosen(name: str | None, tag: str | None) -> tuple[catalogue.Checkpoint, ...]:
    if name is None:
        return catalogue.all_checkpoints()
    try:
        if tag is None:
            return catalogue.for_constructor(name)
        return (catalogue.find(name, tag),)
    except ValueError as error:
        stop(error, USAGE)


def _one(name: str, tag: str | None) -> catalogue.Checkpoint:
    try:
        tag = tag or catalogue.default_tag(name)
        if tag is None:
            raise ValueError(
                f"Nobody published weights for it. Received: name={name!r}"
            )
        return catalogue.find(name, tag)
    except ValueError as error:
        stop(error, USAGE)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
