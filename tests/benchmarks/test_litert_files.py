"""The table of exported files in docs/mobile.md."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.benchmarks.programs import run_program

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "mobile.md"
REPORT = {
    "size_bytes": 12_340_000,
    "maximal_rank": 4,
    "xnnpack_partitions": 1,
    "outside_xnnpack": [],
    "gpu": "compiled whole, relative difference from the CPU 2e-06",
    "relative_difference": 1.5e-6,
    "top1_agreement": 1.0,
    "images": "12 images, photographs",
}


def _junit(path, **reports):
    root = ElementTree.Element("testsuites")
    properties = ElementTree.SubElement(root, "properties")
    for name, report in reports.items():
        ElementTree.SubElement(
            properties,
            "property",
            name=name.replace("_", " "),
            value=json.dumps(REPORT | report),
        )
    ElementTree.ElementTree(root).write(path)
    return path


def test_a_table(tmp_path):
    tensorflow = _junit(
        tmp_path / "tensorflow.xml",
        tensorflow_FFNet1_float32={},
        tensorflow_FFNet1_float16={"size_bytes": 6_200_000, "gpu": "not tested"},
    )
    jax = _junit(
        tmp_path / "jax.xml",
        jax_FFNet1_float32={"relative_difference": 3e-6, "maximal_rank": 5},
        jax_FFNet1_float16={"relative_difference": 2e-3, "outside_xnnpack": ["ABS"]},
    )
    page = tmp_path / "page.md"
    text = PAGE.read_text("utf-8")
    page.write_text(text, encoding="utf-8")
    written = tmp_path / "files.csv"
    finished = run_program(
        "litert_files", tensorflow, jax, "--page", page, "--csv", written
    )
    assert finished.returncode == 0, finished.stderr
    assert len(written.read_text("utf-8").splitlines()) == 5
    assert (
        "| FFNet1 | 5 | 2 | 3 of 4 | 1.5e-06 | 3.0e-06 |  | 2.0e-03 |  "
        "| 12.3 | 12.3 |  |"
    ) in page.read_text("utf-8").splitlines()
    before, after = text.split("<!-- files:")[0], text.split("<!-- end of the files")[1]
    assert page.read_text("utf-8").startswith(before)
    assert page.read_text("utf-8").endswith(after)


def test_what_cannot_be_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    junit = _junit(tmp_path / "tensorflow.xml", tensorflow_FFNet1_float32={})
    written = tmp_path / "files.csv"
    finished = run_program("litert_files", junit, "--page", page, "--csv", written)
    assert "needs the marks" in finished.stderr
    finished = run_program(
        "litert_files", _junit(tmp_path / "empty.xml"), "--page", PAGE, "--csv", written
    )
    assert "no reports" in finished.stderr
    assert not written.exists()
