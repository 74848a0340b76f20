"""What the commands print, and how they end."""

import io
import json
import re
import sys
from typing import Any, NoReturn

import typer

FAILED = 1
USAGE = 2
WEIGHTS = 3

#: What a terminal acts on instead of showing it (control characters, such as the start
#: of an escape sequence, and changes of the direction of writing), and halves of
#: characters, which stand for the bytes of a file name that is in no encoding.
_UNPRINTABLE = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNPRINTABLE += "\ud800-\udfff"
_IN_A_LINE = re.compile(f"[{_UNPRINTABLE}]")
_IN_A_TEXT = re.compile(f"(?!\n)[{_UNPRINTABLE}]")


def prepare_streams() -> None:
    """Make standard output fit for whatever names and readers there are.

    What the encoding has no character for is written as an escape. A reader that leaves
    before the end, as `head` does, ends the program without an error.
    """
    if sys.stdout is None:  # a program without a console, on Windows
        return
    stream = io.BufferedWriter(_Output(sys.stdout.fileno(), "wb", closefd=False))
    sys.stdout.flush()
    sys.stdout = io.TextIOWrapper(
        stream,
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=stream.isatty(),
    )


class _Output(io.FileIO):
    """A file whose reader may leave; the rest is dropped then."""

    _left = False

    def write(self, data: Any) -> int | None:
        if self._left:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            self._left = True
            raise SystemExit(0) from None


def line(text: object) -> str:
    """A name or label as one line that a terminal shows and does not act on."""
    return _IN_A_LINE.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def say(text: object, *, error: bool = False) -> None:
    """Print text of any origin, with its ends of lines."""
    typer.echo(_IN_A_TEXT.sub(_escape, str(text)), err=error)


def stop(message: object, code: int) -> NoReturn:
    """Print an error to standard error and end with an exit code."""
    complain(f"Error: {message}")
    raise typer.Exit(code)


def complain(message: str) -> None:
    """Print an error to standard error."""
    typer.secho(_IN_A_TEXT.sub(_escape, message), fg=typer.colors.RED, err=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON, for programs."""
    # JSON has escapes of its own for what the encoding has no character for.
    unicode = sys.stdout.encoding.lower().replace("-", "") == "utf8"
    text = json.dumps(value, indent=2, ensure_ascii=not unicode)
    sys.stdout.write(
        _IN_A_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n"
    )


def table(*columns: str, numbers: tuple[str, ...] = ()) -> Any:
    """An empty rich table; the columns in `numbers` are aligned to the right."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        result.add_column(column, justify="right" if column in numbers else "left")
    return result


def print_rich(renderable: Any) -> None:
    """Print a table or text; whole, not cut to a width, where no terminal reads it.

    Its texts are shown as they are: `[red]` in a label is no markup.
    """
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, emoji=False, highlight=False).print(renderable)
