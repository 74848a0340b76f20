"""Docstrings, which have Markdown's code, tables and blocks, as Sphinx reads them.

Sections (`Args:` and the like) are left to napoleon.
"""

import re
from collections.abc import Iterator

#: Headings of sections: what is indented below them is no code.
SECTIONS = (
    "Example",
    "Examples",
    "Args",
    "Attributes",
    "Call arguments",
    "Returns",
    "Yields",
    "Raises",
    "Reference",
    "Source",
)
_HEADING = re.compile(rf"(?:{'|'.join(SECTIONS)}):")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def to_restructured_text(lines: list[str]) -> list[str]:
    """The lines of a docstring with reStructuredText's marks in place of Markdown's.

    Code becomes a literal, or, if it is a name, a reference that is code where nothing
    has that name; tables become list tables, and indented blocks code blocks.
    """
    text = "\n".join(_mark_code_blocks(list(_without_tables(lines))))
    parts = re.split(r"(^ *(?:>>>|\.\.\.).*$)", text, flags=re.MULTILINE)
    # Lines of examples, the odd ones, stay as they are.
    parts[::2] = (_CODE.sub(_role, part) for part in parts[::2])
    return "".join(parts).splitlines()


def _role(match: re.Match[str]) -> str:
    """One piece of code, apart from letters that touch it."""
    code = " ".join(match[1].split())
    role = f":py:obj:`{code}`" if _NAME.fullmatch(code) else f"``{code}``"
    before = match.string[match.start() - 1] if match.start() else " "
    after = match.string[match.end() : match.end() + 1] or " "
    return (
        ("\\ " if before.isalnum() or before in "²³" else "")
        + role
        + ("\\ " if after.isalnum() or after in "²³_" else "")
    )


def _mark_code_blocks(lines: list[str]) -> Iterator[str]:
    """A line that ends in a colon opens the indented block behind it."""
    for index, line in enumerate(lines):
        following = lines[index + 1 : index + 3]
        opens = (
            line.endswith(":")
            and not line.startswith(" ")
            and not _HEADING.fullmatch(line)
            and len(following) == 2
            and not following[0]
            and following[1].startswith("    ")
        )
        yield f"{line}:" if opens else line


def _without_tables(lines: list[str]) -> Iterator[str]:
    rows: list[list[str]] = []
    for line in [*lines, ""]:
        stripped = line.strip()
        if stripped.startswith("|") and stripped.endswith("|"):
            rows.append([cell.strip() for cell in stripped[1:-1].split("|")])
            continue
        if rows:
            yield from _list_table(rows)
            rows = []
        yield line


def _list_table(rows: list[list[str]]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "")
    for row in (rows[0], *rows[2:]):
        for index, cell in enumerate(row):
            yield f"   {'  ' if index else '* '}- {cell}"
    yield ""
