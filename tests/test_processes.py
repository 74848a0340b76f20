"""Child processes take their modules from where this one does, not from the folder."""

import ast
import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_metaformer
from keras_metaformer.export import convert
from keras_metaformer.processes import python_command, run_python

pytestmark = pytest.mark.backend_independent

PACKAGE = Path(keras_metaformer.__file__).parent


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
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.List)
        and "sys.executable" in map(ast.unparse, node.elts)
    }
    assert users == set()
    assert "sys.executable" in (PACKAGE / "processes.py").read_text("utf-8")


def test_conversion_prefers_what_is_installed_to_the_current_folder(
    tmp_path, monkeypatch
):
    """In a session (`-c`, Jupyter), whose own path has the folder first."""
    seen = []

    def run(*_, env):
        program = "import importlib.util as u; print(u.find_spec('numpy').origin)"
        seen.append(run_python("-c", program, env=env).stdout)
        raise InterruptedError

    (tmp_path / "numpy.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(convert, "run_python", run)
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Conv2D(2, 3)(image))
    with pytest.raises(InterruptedError):
        convert._convert_in_child(model, convert.GraphOptions((8, 8, 3)))
    assert seen[0].strip() == np.__file__
