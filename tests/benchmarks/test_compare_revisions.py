"""Two revisions side by side, each with a package of its own."""

import csv
import json
import subprocess

import keras
import pytest
from typer.testing import CliRunner

from benchmarks import compare_revisions
from benchmarks.compare_revisions import RevisionJob, app, make_row, take_copy
from benchmarks.contender import Case, Contender
from keras_metaformer_lite.benchmark.turns import Outcome

BACKEND = keras.backend.backend()
CASE = Case("Tiny", "inference", 2, "float32", "cpu", 8)
#: A stand-in for the package, with a model that says which revision it is of.
PACKAGE = """
import keras
def Tiny(weights, input_shape, classifier_activation):
    assert classifier_activation is None
    print("made by REVISION")
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten()])
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with two commits, of which the second is checked out and changed."""
    folder = tmp_path / "checkout"
    package = folder / "keras_metaformer"
    package.mkdir(parents=True)
    (folder / ".gitignore").write_text("*.pyc\n")

    def git(*arguments):
        name = ("-c", "user.name=Someone", "-c", "user.email=someone@example.com")
        subprocess.run(["git", "-C", folder, *name, *arguments], check=True)

    git("init", "--quiet", "--initial-branch", "main")
    for revision in ("first", "second"):
        (package / "__init__.py").write_text(PACKAGE.replace("REVISION", revision))
        git("add", ".")
        git("commit", "--quiet", "--message", revision)
    (package / "__init__.py").write_text(PACKAGE.replace("REVISION", "third"))
    (package / "new.py").write_text("")
    (package / "old.pyc").write_text("")
    monkeypatch.setattr(compare_revisions, "ROOT", folder)
    return folder


def _copied(tree, folder):
    folder.mkdir()
    commit = take_copy(str(tree), folder)
    text = (folder / "keras_metaformer" / "__init__.py").read_text()
    return commit, text.partition("made by ")[2].partition('"')[0]


@pytest.mark.backend_independent
def test_copies(checkout, tmp_path):
    first, text = _copied("main~1", tmp_path / "first")
    assert text == "first"
    second, text = _copied("main", tmp_path / "second")
    assert text == "second"
    assert second != first and len(first) == 12
    third, text = _copied(checkout, tmp_path / "third")
    assert (third, text) == (f"{second}+", "third")
    copied = {path.name for path in (tmp_path / "third" / "keras_metaformer").iterdir()}
    assert copied == {"__init__.py", "new.py"}


@pytest.mark.backend_independent
def test_what_is_no_revision(checkout, tmp_path):
    (tmp_path / "copy").mkdir()
    for tree in ("nothing", "--help", str(tmp_path)):
        with pytest.raises(ValueError, match="git revision or the folder"):
            take_copy(tree, tmp_path / "copy")
    result = CliRunner().invoke(app, ["nothing", "main"])
    assert result.exit_code == 2
    assert "git revision or the folder" in result.stderr


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "sleeping"], "`mode` must be one of"),
        (["-b", "caffe"], "`backend` must be one of"),
        (["--option", "channels_last"], "options of ours are"),
        (["--option", "folded", "--mode", "training"], "cannot be trained"),
    ],
)
def test_errors(arguments, message):
    result = CliRunner().invoke(app, ["main", "main", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def _outcome(revision, seconds, status="ok", message=""):
    job = RevisionJob(Contender("ours", "jax"), CASE, 0.0, revision)
    return Outcome(job, status, message, turns=[{"seconds": each} for each in seconds])


@pytest.mark.backend_independent
def test_ratios_are_of_the_same_round_and_the_same_pair():
    pairs = [
        (_outcome("before", [0.1, 0.2, 0.4]), _outcome("after", [0.1, 0.3, 0.4])),
        (_outcome("before", [1.0, 1.0, 1.0]), _outcome("after", [2.0, 2.0, 3.0])),
        (_outcome("before", [9.0]), _outcome("after", [], "failed", "lost")),
    ]
    row = make_row(CASE, Contender("ours", "jax"), pairs)
    assert (row["contender"], row["batch"], row["rounds"]) == ("ours@jax", 2, 6)
    # Of 1, 1.5, 1 and 2, 2, 3.
    assert (row["ratio_q1"], row["ratio"], row["ratio_q3"]) == (1.125, 1.75, 2)
    assert row["ratio_of_each_pair"] == "1.000 2.000"
    assert (row["before_ms"], row["after_ms"]) == (700, 1200)
    assert row["message"] == "after: failed: lost"
    assert "ratio" not in make_row(CASE, Contender("ours", "jax"), pairs[2:])


@pytest.mark.large
@pytest.mark.one_backend
def test_each_process_runs_the_package_of_its_revision(checkout, tmp_path):
    table = tmp_path / "ratios.csv"
    arguments = [
        *("main~1", str(checkout), "--model", "Tiny", "--batch", "2", "-b", BACKEND),
        *("--resolution", "8", "--repetitions", "2", "--processes", "2"),
        *("--minimum-seconds", "0", "--tolerance", "1000"),
        *("--csv", str(table), "--json"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert row["rounds"] == 4
    assert row["message"] == ""
    assert row["after"].endswith("+") and row["before"] not in row["after"]
    assert row["before_ms"] > 0 and row["after_ms"] > 0 and row["cores"] > 0
    with table.open(newline="", encoding="utf-8") as file:
        (written,) = csv.DictReader(file)
    assert written["ratio"] == str(row["ratio"])
    assert "pass 2 of 2, 1 of 1: Tiny, batch 2" in result.stderr


@pytest.mark.backend_independent
def test_another_package_than_the_one_meant_is_an_error(tmp_path, monkeypatch):
    outcome = _outcome("before", [0.1])
    outcome.memory["package"] = "/elsewhere/keras_metaformer"
    monkeypatch.setattr(compare_revisions, "compare", lambda *_: [outcome, outcome])
    with pytest.raises(RuntimeError, match="ran the package in /elsewhere"):
        compare_revisions.measure(
            (tmp_path, tmp_path), CASE, Contender("ours", "jax"), 1, 1.0, 0.0, print
        )
