"""What is printed, wherever it comes from and whoever reads it."""

import importlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import keras_metaformer
from keras_metaformer_lite.cli import app
from keras_metaformer_lite.processes import python_command, run_python
from keras_metaformer_lite.processor import ONE_DNN_VARIABLE, gains_from_one_dnn

pytestmark = pytest.mark.backend_independent

#: The package has the command under the name of its module.
classify = importlib.import_module("keras_metaformer_lite.cli.classify")

MAIN = "from keras_metaformer_lite.cli import main; main()"
#: The children run the package that this process runs.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join(
        [
            str(Path(keras_metaformer.__file__).parents[1]),
            *filter(None, [os.environ.get("PYTHONPATH")]),
        ]
    )
}


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """An exported file with labels that a terminal would act on, and images."""

    class Classifier:
        def predict(self, picture, top):
            names = [
                (None, "[red]a[/red]"),
                (None, "b\x1b[31m\x9b31m"),
                (None, ":cat:_c"),
            ]
            return classify._best(np.array([0.5, 0.3, 0.2]), names, top)

    monkeypatch.setattr(classify._LiteRTClassifier, "load", lambda path: Classifier())
    for name in ("[red]\x1b[2J.png", "two\nlines.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "bad\x1b[2J.png").write_text("hello")
    return tmp_path


def test_labels_and_names_are_text_and_nothing_else(strange):
    result = CliRunner().invoke(app, ["classify", str(strange), "--tflite", "x"])
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\x9b" not in result.output
    for text in (
        "[red]a[/red] ",
        "b\\x1b[31m\\x9b31m ",
        ":cat: c ",
        "/[red]\\x1b[2J.png",
    ):
        assert text in result.output
    assert f"{strange}/two\\nlines.png" in result.output.splitlines()
    assert "bad\\x1b[2J.png: Expected an image file" in result.output


def test_json_gives_them_back_whole(strange):
    arguments = ["classify", str(strange), "--tflite", "x", "--json"]
    result = CliRunner().invoke(app, arguments)
    rows = json.loads(result.stdout)
    assert {Path(row["image"]).name for row in rows} == set(os.listdir(strange))
    assert [entry["name"] for entry in rows[-1]["classes"]] == [
        "[red]a[/red]", "b\x1b[31m\x9b31m", ":cat:_c"
    ]  # fmt: skip
    assert "\x9b" not in result.stdout


@pytest.mark.parametrize("encoding", ["ascii:strict", "latin-1:strict", "utf-8:strict"])
def test_every_name_can_be_printed_in_every_encoding(encoding):
    program = (
        "from keras_metaformer_lite.cli import output\n"
        "output.prepare_streams()\n"
        "name = 'Größe ☕ \\U0001f600 \\udcff'\n"
        "output.say(name)\n"
        "rows = output.table('Class')\n"
        "rows.add_row(output.line(name))\n"
        "output.print_rich(rows)\n"
        "output.print_json({'name': name})\n"
    )
    environment = ENVIRONMENT | {"PYTHONIOENCODING": encoding}
    finished = run_python("-c", program, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert "\\udcff" in finished.stdout.splitlines()[0]
    assert json.loads(finished.stdout[finished.stdout.index("{") :]) == {
        "name": "Größe ☕ \U0001f600 \udcff"
    } or encoding.startswith("latin")


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    command = python_command("-c", MAIN, *arguments)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


#: What is asked for, the exit code, and a word of the answer.
WITHOUT_A_BACKEND = [
    ("--version", 0, f"keras-metaformer {keras_metaformer.__version__}"),
    ("--help", 0, "Exit codes"),
    ("list", 0, "CAFormerS18"),
    ("list --json", 0, "CAFormerS18"),
    ("weights list", 0, "imagenet21k_ft1k_384"),
    ("weights list --json", 0, "imagenet21k_ft1k_384"),
    ("classify /nonexistent.jpg", 1, "there is none"),
    ("classify /nonexistent/*.jpg", 2, "/nonexistent/*.jpg"),
    ("classify text.txt", 1, "Expected an image file"),
    ("classify image.png --model ResNet50", 2, "ResNet50"),
    ("classify image.png --weights imagenet_9", 3, "imagenet_9"),
    ("classify image.png --model GMLPTi16", 2, "--weights"),
    ("convert a b", 2, "must end in"),
    ("convert a b.npz", 2, "no such file: a"),
    ("convert text.txt b.npz --model ResMLP13", 2, "ResMLP12"),
    ("convert text.txt b.npz --model ResMLP12 --tag x", 2, "imagenet"),
    ("convert text.txt none/b.npz --model ResMLP12", 1, "a folder that exists"),
    ("export --output none/a.tflite", 1, "a folder that exists"),
    ("export --output a.tflite --model NoFormer", 2, "NoFormer"),
    ("export --output a.tflite --weights none.npz", 3, "none.npz"),
    ("export --output a.tflite --labels none.txt", 2, "none.txt"),
    ("export --output a.tflite --calibration none", 2, "none"),
    ("export --output a.tflite --quantize int8", 2, "--calibration"),
    *(
        (f"{verb} --help", 0, "Usage")
        for verb in (
            *"benchmark classify convert demo export list web weights".split(),
            *("weights list", "weights fetch"),
        )
    ),
]


def test_what_can_be_said_without_a_backend_is(tmp_path):
    """All in one process, into which Keras has not come at the end."""
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    (tmp_path / "text.txt").write_text("hello")
    program = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from keras_metaformer_lite.cli import app\n"
        "found = []\n"
        "for line in sys.argv[1:]:\n"
        "    result = CliRunner().invoke(app, line.split())\n"
        "    found.append([result.exit_code, result.output, 'keras' in sys.modules])\n"
        "print(json.dumps(found))\n"
    )
    lines = [line for line, _, _ in WITHOUT_A_BACKEND]
    environment = ENVIRONMENT | {"KERAS_METAFORMER_CACHE": str(tmp_path / "cache")}
    finished = run_python("-c", program, *lines, cwd=tmp_path, env=environment)
    assert finished.returncode == 0, finished.stderr
    answers = json.loads(finished.stdout)
    for (line, code, word), (found_code, output, keras) in zip(
        WITHOUT_A_BACKEND, answers, strict=True
    ):
        assert (line, found_code) == (line, code), output
        assert word in output, line
        assert not keras, line
    assert sorted(os.listdir(tmp_path)) == ["image.png", "text.txt"]


TENSORFLOW_VARIABLES = ("TF_CPP_MIN_LOG_LEVEL", ONE_DNN_VARIABLE)


def test_tensorflow_is_as_a_program_wants_it_unless_asked():
    program = (
        "import os, sys\n"
        "from keras_metaformer_lite.cli import main\n"
        "sys.argv = ['keras-metaformer', '--version']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        f"    print(*(os.environ.get(name) for name in {list(TENSORFLOW_VARIABLES)}))\n"
    )
    environment = {**ENVIRONMENT}
    for name in TENSORFLOW_VARIABLES:
        environment.pop(name, None)
    expected = ["3", "1" if gains_from_one_dnn() else "None"]
    finished = run_python("-c", program, env=environment)
    assert finished.stdout.split()[-2:] == expected
    environment |= dict.fromkeys(TENSORFLOW_VARIABLES, "0")
    finished = run_python("-c", program, env=environment)
    assert finished.stdout.split()[-2:] == ["0", "0"]
