import re
import subprocess
import sys
from pathlib import Path

import pytest

import keras_metaformer as km

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_model_table_is_current():
    script = "scripts.update_readme"

    check = subprocess.run(
        [sys.executable, "-m", script, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert check.returncode == 0, f"run python -m {script}\n{check.stderr}"


def test_every_file_that_is_linked_is_there():
    links = re.findall(r"\]\(([^)#:]+)\)", README)

    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_examples_are_python_and_name_what_there_is():
    used = set()
    for block in blocks("python"):
        compile(block, "README.md", "exec")
        used.update(re.findall(r"\bkm\.([\w.]+)", block))

    assert len(used) >= 4
    for path in used:
        found = km
        for name in path.split("."):
            found = getattr(found, name)


def test_the_commands_are_there():
    from typer.testing import CliRunner

    from keras_metaformer.cli import app

    commands = re.findall(r"^keras-metaformer ([\w ]+)", README, flags=re.MULTILINE)

    assert {command.split()[0] for command in commands} >= {"list", "classify", "demo"}
    for command in commands:
        words = command.split()
        names = words[:2] if words[0] == "weights" else words[:1]
        result = CliRunner().invoke(app, [*names, "--help"])
        assert result.exit_code == 0, command
        assert f"Usage: keras-metaformer {' '.join(names)}" in result.output


def test_the_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^(?:KERAS_BACKEND=\w+ )?make ([\w-]+)", README, re.MULTILINE)

    assert set(targets) >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
