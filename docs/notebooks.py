"""Notebooks of the guides: their text and code, in their order."""

import base64
import mimetypes
import re
from pathlib import Path
from typing import Any

import nbformat
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

#: The extras that each guide's code needs, the backend first.
EXTRAS = {
    "quickstart": "jax,train,demo",
    "training": "jax,train,export",
    "features": "jax,hub",
    "mixers": "jax",
    "explain": "jax,explain",
    "mobile": "tensorflow,export",
}
_INSTALL = '%pip install --quiet "keras-metaformer[{extras}]"'
_BACKEND = """\
import os

os.environ.setdefault("KERAS_BACKEND", "{backend}")  # before Keras is imported"""
_PHOTOGRAPH = """\
# A photograph of the package's, unless there is one of yours.
import pathlib
import shutil

from keras_metaformer_lite.examples import photograph_files

if not pathlib.Path("cat.jpg").exists():
    cat = next(path for path in photograph_files() if path.stem == "cat")
    shutil.copy(cat, "cat.jpg")"""
_FOLDER = re.compile(r"\b(?:photos|photographs)/")
_OF_YOURS = """\
`{folder}` stands for a folder of yours, with a folder of images for each class.
"""
_LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#:\s]+)((?:#[^)]*)?)\)")


def make_notebook(page: Path, text: str | None = None) -> nbformat.NotebookNode:
    """A guide as a notebook, which installs what it needs first.

    Args:
        page: path of the guide, beside which its pictures are found.
        text: of the page, with links to pages of the site only.
    """
    if text is None:
        text = page.read_text(encoding="utf-8")
    title, rest = text.split("\n", 1)
    cells = []
    lines = rest.splitlines(keepends=True)
    done = 0
    for token in MarkdownIt().parse(rest):
        cell = _code(token.info, token.content) if token.type == "fence" else None
        if cell is not None and token.level == 0 and token.map is not None:
            begin, end = token.map
            cells.append(_prose("".join(lines[done:begin]), page.parent))
            cells.append(new_code_cell(cell))
            done = end
    cells.append(_prose("".join(lines[done:]), page.parent))
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    cells = [new_markdown_cell(title), *_set_up(EXTRAS[page.stem], code), *cells]
    cells = [cell for cell in cells if cell.source]
    for number, cell in enumerate(cells):
        cell.id = f"{page.stem}-{number}"  # the same each time
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return new_notebook(cells=cells, metadata=metadata)


def _set_up(extras: str, code: str) -> list[Any]:
    cells = [
        new_code_cell(_INSTALL.format(extras=extras)),
        new_code_cell(_BACKEND.format(backend=extras.split(",")[0])),
    ]
    if "cat.jpg" in code:
        cells.append(new_code_cell(_PHOTOGRAPH))
    if folder := _FOLDER.search(code):
        cells.append(new_markdown_cell(_OF_YOURS.format(folder=folder[0]).strip()))
    return cells


def _code(language: str, block: str) -> str | None:
    """The cell of a block, None for one that is to be read only."""
    if language == "python":
        return block.strip()
    if language not in ("sh", "shell"):
        return None
    lines = block.replace("\\\n", " ").splitlines()
    commands = [re.sub(r"(^|\s+)#.*", "", line) for line in lines]
    # Variables are set for the whole notebook, above.
    commands = [line for line in commands if line and not line.startswith("export ")]
    cells = [_command(command) for command in commands]
    return None if None in cells else "\n".join(map(str, cells))


def _command(command: str) -> str | None:
    """The line of a cell, None for what needs a clone or serves until stopped."""
    program, verb, *_ = [*command.split(), ""]
    if program == "pip":
        return f"%{command}"
    return f"!{command}" if program == "keras-metaformer" and verb != "web" else None


def _prose(text: str, folder: Path) -> nbformat.NotebookNode:
    """Text whose pictures are part of the cell, and whose links lead to the site."""
    attachments = {}

    def change(match: re.Match[str]) -> str:
        label, target, place = match.groups()
        if not label.startswith("!"):
            target = re.sub(r"\.md$", ".html", target.removeprefix("/"))
            return f"{label}({target}{place})"
        picture = folder / target
        kind = mimetypes.guess_type(picture.name)[0] or ""
        content = base64.b64encode(picture.read_bytes()).decode("ascii")
        attachments[picture.name] = {kind: content}
        return f"{label}(attachment:{picture.name})"

    cell = new_markdown_cell(_LINK.sub(change, text).strip())
    if attachments:
        cell.attachments = attachments
    return cell
