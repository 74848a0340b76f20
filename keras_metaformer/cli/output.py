"""What the commands print, and how they end."""

import sys
from typing import Any, NoReturn

import typer

FAILED = 1
USAGE = 2
WEIGHTS = 3


def stop(message: object, code: int) -> NoReturn:
    """Print an error to standard error and end with an exit code."""
    typer.secho(f"Error: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, for programs."""
    import json

    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Any:
    """An empty rich table; the columns in `numbers` are aligned to the right."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        result.add_column(column, justify="right" if column in numbers else "left")
    return result


def print_rich(renderable: Any) -> None:
    """Print a table or text; whole, not cut to a width, where no terminal reads it."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(renderable)
