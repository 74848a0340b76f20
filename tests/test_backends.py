"""Which backend Keras takes, and what is said where it is not installed."""

import json
import os

import pytest

from keras_metaformer_lite import backends
from keras_metaformer_lite.processes import run_python

pytestmark = pytest.mark.backend_independent

#: TensorFlow as if it were not installed.
_WITHOUT = "import sys; sys.modules['tensorflow'] = None\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Keras' folder, in which nothing is configured."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        (None, "tensorflow"),
        ({"backend": "torch"}, "torch"),
        ({"floatx": "float32"}, "tensorflow"),
        ([], "tensorflow"),
        ("{", "tensorflow"),
    ],
)
def test_what_keras_takes(home, monkeypatch, configuration, expected):
    if configuration is not None:
        is_text = isinstance(configuration, str)
        text = configuration if is_text else json.dumps(configuration)
        (home / "keras.json").write_text(text)
    assert backends.chosen_backend() == expected
    monkeypatch.setenv("KERAS_BACKEND", "")
    assert backends.chosen_backend() == expected
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert backends.chosen_backend() == "jax"


@pytest.mark.parametrize(
    ("named", "installed", "expected"),
    [
        (None, ("jax", "torch"), "jax"),
        (None, ("tensorflow", "jax"), None),
        (None, (), None),
        ("torch", ("jax",), "torch"),
    ],
)
def test_the_command_takes_what_is_there(home, monkeypatch, named, installed, expected):
    monkeypatch.setattr(backends, "installed_backends", lambda: installed)
    if named:
        monkeypatch.setenv("KERAS_BACKEND", named)
    else:
        monkeypatch.setenv("KERAS_BACKEND", "")  # so that it is as before afterwards
        monkeypatch.delenv("KERAS_BACKEND")
    backends.choose_installed_backend()
    assert os.environ.get("KERAS_BACKEND") == expected


def test_errors(home, monkeypatch):
    monkeypatch.setattr(backends, "installed_backends", lambda: ("jax", "torch"))
    with pytest.raises(ImportError, match=r"\['jax', 'torch'\].*None.*'tensorflow'"):
        backends.check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    backends.check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "numpy")  # Keras' own matter
    backends.check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(backends, "installed_backends", tuple)
    with pytest.raises(ImportError, match=r"pip install.*KERAS_BACKEND='jax'"):
        backends.check_backend()


def test_an_import_says_what_to_set(home):
    finished = run_python("-c", _WITHOUT + "import keras_metaformer")
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: Expected a backend of Keras that is installed")
    assert "['jax', 'torch', 'openvino']" in last


def test_the_command_runs_without_tensorflow_and_without_a_variable(home):
    finished = run_python(
        "-c",
        _WITHOUT + "import os\n"
        "from keras_metaformer_lite.cli import main\n"
        "sys.argv = ['keras-metaformer', '--version']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    import keras_metaformer, keras\n"
        "    print(keras.backend.backend())\n",
    )
    assert finished.stdout.split()[-1] == "jax", finished.stderr
