"""Docstrings as Sphinx reads them."""

import pytest

from docs.docstrings import to_restructured_text

pytestmark = pytest.mark.backend_independent


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("takes `fold` and `x = 3`", "takes :py:obj:`fold` and ``x = 3``"),
        ("stages of `Block`s", r"stages of :py:obj:`Block`\ s"),
        ("the ratio `|w| / |u|` is", "the ratio ``|w| / |u|`` is"),
        (">>> a = `b`", ">>> a = `b`"),
        ("``already``", "``already``"),
    ],
)
def test_code(line, wanted):
    assert to_restructured_text([line]) == [wanted]


def test_code_over_two_lines_stays_one_piece():
    assert to_restructured_text(["of `(batch,", "    tokens)` here"]) == [
        "of ``(batch, tokens)`` here"
    ]


def test_blocks():
    text = ["For `w`:", "", "    w = w - 1", "", "Args:", "", "    x: y."]
    assert to_restructured_text(text)[0] == "For :py:obj:`w`::"
    assert to_restructured_text(text)[4] == "Args:"


def test_tables():
    text = ["| a | b |", "|---|---|", "| 1 | `c` |"]
    assert to_restructured_text(text) == [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - a",
        "     - b",
        "   * - 1",
        "     - :py:obj:`c`",
        "",
    ]
