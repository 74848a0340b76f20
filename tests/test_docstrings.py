"""The form of docstrings that CONTRIBUTING.md asks for, beside the linter's rules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("keras_metaformer", "keras_metaformer_lite")
#: In the order in which they stand.
SECTIONS = (
    "Example:",
    "Examples:",
    "Args:",
    "Attributes:",
    "Call arguments:",
    "Returns:",
    "Yields:",
    "Raises:",
    "Reference:",
)
LISTS = ("Args:", "Attributes:", "Call arguments:", "Raises:")
#: Words that are written with a capital letter in the middle of a sentence, too.
NAME = re.compile(r"[A-Z]\w*[A-Z]|[A-Z]+\b(?<!\bA)|None\b|Keras|Pillow|Python|Google")


def docstrings() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    text = ast.get_docstring(node)
                    if text:
                        yield f"{path.relative_to(ROOT)}:{node.name}", text


def faults(text: str) -> Iterator[str]:
    if re.match(r"Returns?\b", text):
        yield "a summary says what is returned, not that something is"
    lines = text.splitlines()
    sections = [line for line in lines if line in SECTIONS]
    if sections != sorted(sections, key=SECTIONS.index):
        yield f"sections in another order: {sections}"
    section = ""
    for line in lines:
        if line and not line.startswith(" "):
            section = line
        entry = re.match(r" {4}\*{0,2}[\w./]+: (.+)", line)
        if not entry or section not in LISTS or NAME.match(entry[1]):
            continue
        if entry[1][0].isupper():
            yield f"an entry that starts with a capital letter: {entry[0].strip()}"


def test_the_package():
    found = {place: list(faults(text)) for place, text in docstrings()}
    assert len(found) > 500
    assert {place: each for place, each in found.items() if each} == {}


def test_faults_are_found():
    assert list(faults("Returns a model."))
    assert list(faults("A model.\n\nArgs:\n    size: Height in pixels."))
    assert list(faults("A model.\n\nRaises:\n    a: b.\n\nArgs:\n    c: d."))
    assert not list(faults("A model.\n\nArgs:\n    size: int, in pixels.\n    x: RGB."))
