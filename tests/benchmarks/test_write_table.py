"""The results in docs/performance.md."""

from pathlib import Path

import pytest

from benchmarks.rows import make_rows, write_csv
from tests.benchmarks.programs import run_program
from tests.benchmarks.test_rows import OUTCOMES

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current():
    finished = run_program("write_table", "--check")
    assert finished.returncode == 0, finished.stderr


def test_a_table(tmp_path):
    environment = {
        "cpu": "Some Processor",
        "cores": 2,
        "ram_gib": 8.0,
        "revision": "abc",
        "date": "2026-01-02T00:00:00+00:00",
    }
    held_down = environment | {"variables": "ONEDNN_MAX_CPU_ISA=AVX2"}
    rows = [
        *make_rows(OUTCOMES, "timm*", environment),
        *make_rows(OUTCOMES, "timm*", held_down),
    ]
    write_csv(rows, tmp_path / "run.csv")
    page = tmp_path / "page.md"
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    page.write_text(text, encoding="utf-8")
    arguments = (tmp_path / "run.csv", "--page", page)
    assert run_program("write_table", *arguments, "--check").returncode == 1
    assert run_program("write_table", *arguments).returncode == 0
    assert run_program("write_table", *arguments, "--check").returncode == 0
    lines = page.read_text("utf-8").splitlines()
    assert "### Some Processor, 2 cores, 2026-01-02" in lines
    assert "| | CAFormerS18, batch 4 |" in lines
    assert "Rows with ↓: run with `ONEDNN_MAX_CPU_ISA=AVX2`." in lines
    for mark in ("", " ↓"):
        assert any(
            line.startswith(f"| ours@jax{mark} | 200 [")
            and line.endswith("] (0.50; 2.00) |")
            for line in lines
        )
        assert any(line.startswith(f"| timm{mark} | **400** [") for line in lines)
    assert "| timm+compile | failed |" in lines
    # Nothing else on the page has changed.
    assert lines[0] == text.splitlines()[0]
    assert lines[-1] == text.splitlines()[-1]
