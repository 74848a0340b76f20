"""Child processes take their modules from where this one does, not from the folder."""

import ast
import os
from pathlib import Path

import pytest

import keras_metaformer_lite
from keras_metaformer_lite import processes
from keras_metaformer_lite.processes import python_command, run_python

pytestmark = pytest.mark.backend_independent

ROOT = Path(keras_metaformer_lite.__file__).parents[1]
PACKAGES = [ROOT / "keras_metaformer", ROOT / "keras_metaformer_lite"]


def test_the_current_folder_is_no_place_for_modules(tmp_path, monkeypatch):
    for name in ("json", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(
            "from pathlib import Path; Path('ran').touch()"
        )
    monkeypatch.chdir(tmp_path)
    program = "import importlib.util, json; importlib.util.find_spec('tensorflow')"
    for arguments in (("-c", f"{program}; print(json.dumps(1))"), ("-m", "json.tool")):
        finished = run_python(*arguments, input="1")
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.strip() == "1"
    assert not (tmp_path / "ran").exists()


def test_text_is_utf8_in_any_locale(tmp_path):
    program = (
        "import json, locale, sys; print('Größe ☕'); print(open(sys.argv[1]).read())"
    )
    (tmp_path / "text").write_text("ÿ", encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    finished = run_python("-c", program, tmp_path / "text", env=environment)
    assert finished.stdout.splitlines() == ["Größe ☕", "ÿ"], finished.stderr


def test_another_interpreter():
    assert python_command("-c", "0", interpreter=Path("/other/python")) == [
        *("/other/python", "-P", "-X", "utf8", "-c", "0")
    ]


def test_every_child_is_started_so():
    """What starts this Python again stands in one file."""
    users = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable"
    }
    assert users == {Path(processes.__file__).relative_to(ROOT).as_posix()}
