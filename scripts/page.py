"""What programs write into the docs: parts of pages between two marks, and drawings."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def around(page: Path, start: str, end: str) -> tuple[str, str]:
    """What stands before and after the marks, with the marks.

    Raises:
        SystemExit: if the page lacks a mark.
    """
    before, start_found, rest = page.read_text(encoding="utf-8").partition(start)
    _, end_found, after = rest.partition(end)
    if not (start_found and end_found):
        raise SystemExit(f"{page} needs the marks {start!r} and {end!r}")
    return before + start, end + after


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def put(page: Path, wanted: str, what: str, check: bool) -> int:
    """Writes a page, or only checks that it is what it should be.

    Args:
        page: of which `wanted` is the text.
        wanted: str.
        what: the part that a program writes, for the message.
        check: bool. Whether nothing is written.

    Returns:
        The exit status: 1 if the page is checked and differs.
    """
    if check:
        is_current = page.read_text(encoding="utf-8") == wanted
        if not is_current:
            print(f"{page.name}: {what}: not current.", file=sys.stderr)
        return int(not is_current)
    replace(page, wanted)
    return 0


def put_drawings(
    doc: str | None,
    folder: Path,
    drawings: Callable[[], Mapping[str, str]],
    what: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """A program that writes SVG files, or with `--check` says which are not current.

    Args:
        doc: what `--help` says.
        folder: of the files.
        drawings: gives the content of each, by its name without the ending.
        what: each is, for the message.
        arguments: of the command line; else those of this process.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    return max(
        put(folder / f"{name}.svg", text, what, check)
        for name, text in drawings().items()
    )
