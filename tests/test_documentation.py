"""What README.md and docs say is true: every block of code in them runs to its end."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import keras
import nbformat
import numpy as np
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
import typer
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from typer.testing import CliRunner

import keras_metaformer as km
from benchmarks.__main__ import app as benchmarks
from docs.notebooks import EXTRAS, make_notebook
from keras_metaformer.layers.initializers import undrawn
from keras_metaformer_lite.cli import app
from keras_metaformer_lite.examples import photograph_files
from keras_metaformer_lite.weights import catalogue
from scripts import draw_blocks, draw_charts, draw_reported
from tests.notebook_kernel import execute
from tests.sharing.loopback_hub import loopback_hub
from tests.small_models import narrowed
from tests.weights import synthetic, torch_files

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: Those that Sphinx makes and reads besides are none of ours.
PAGES = [
    ROOT / "README.md",
    *sorted(
        page
        for page in (ROOT / "docs").rglob("*.md")
        if not {"_build", "api"} & set(page.relative_to(ROOT).parts)
    ),
]
#: What newcomers try; the others' calls have tests of their own on each backend.
ON_EACH_BACKEND = ("README",)
#: The models that the pages use.
USED = ("CAFormerS18", "ConvFormerS18")
SHELL = ("sh", "shell")
#: Languages of phones, which are parsed here and not run.
PHONES = {"kotlin": tree_sitter_kotlin, "swift": tree_sitter_swift}
#: Blocks that are no code.
PROSE = ("text",)
#: Verbs that take minutes or serve until they are stopped. Their arguments are parsed
#: here; tests/cli and tests/training run them.
LONG = (
    "benchmark",
    "compare",
    "demo",
    "evaluate",
    "explain",
    "predict",
    "train",
    "web",
)

# What runs no model, or the same on every backend.
ONCE = pytest.mark.backend_independent


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def pages_with(*languages: str) -> list:
    """As parameters of a test, with the page's name as their id."""
    pages = [page for page in PAGES if blocks(page, *languages)]
    return [
        pytest.param(
            page,
            id=page.stem,
            marks=() if page.stem in ON_EACH_BACKEND else pytest.mark.one_backend,
        )
        for page in pages
    ]


def command_lines(page: Path) -> list[list[str]]:
    """The words of each command, without variables of the environment before it."""
    text = "".join(blocks(page, *SHELL)).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    commands = []
    for words in filter(None, lines):
        words = words[1:] if words[0] == "export" else words
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        commands += [words] if words else []
    return commands


class MyMixer(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.roll(inputs, 1, axis=1)


class Images(keras.utils.PyDataset):
    """A batch of images 0..255 and labels."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (2, 224, 224, 3))
        return pixels.astype("uint8"), np.array([0, 36])


@pytest.fixture(scope="module", autouse=True)
def narrow_models(tmp_path_factory):
    """The pages' models with few channels, and weights of that width to be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_METAFORMER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KERAS_METAFORMER_OFFLINE", "1")
        for name in USED:
            constructor = narrowed(patch, name)
            model: Any = constructor(weights=None)
            for tag in ("imagenet", "imagenet_384"):
                row = catalogue.find(name, tag)
                naming = synthetic.naming_of(row, "auto")
                synthetic.write(row, "auto", km.to_state_dict(model, naming))
        yield


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of, as the working directory."""
    monkeypatch.chdir(tmp_path)
    cat = next(path for path in photograph_files() if path.stem == "cat")
    shutil.copy(cat, "cat.jpg")
    Path("photos").mkdir()
    shutil.copy(cat, "photos")
    for path in photograph_files():
        Path("photos", path.stem).mkdir()
        for number in range(8):
            shutil.copy(path, f"photos/{path.stem}/{number}.jpg")
    km.ConvFormerS18(weights=None).save_weights("my.weights.h5")
    mine = km.CAFormerS18(weights=None, classes=37)
    mine.save("mine.keras")
    Path("flowers").mkdir()
    shutil.copy("mine.keras", "flowers/best.keras")
    mine.save_weights("mine.weights.h5")
    arrays = km.to_state_dict(km.CAFormerS18(weights=None))
    Path("caformer_s18.pth").write_bytes(
        torch_files.zip_bytes(torch_files.tensors(arrays))
    )
    return tmp_path


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """What the pages save to the Hugging Face hub goes to one on loopback."""
    with loopback_hub(monkeypatch, tmp_path_factory.mktemp("hub")) as running:
        yield running


@ONCE
def test_every_block_is_of_a_language_that_is_checked_here():
    seen = {
        language
        for page in PAGES
        for language in re.findall(
            r"^```([^\n]*)\n.*?^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
        )
        if not language.startswith("{")  # a directive of the site's
    }
    assert seen <= {"python", "toml", *SHELL, *PHONES, *PROSE}


@ONCE
@pytest.mark.parametrize("language", PHONES)
def test_code_for_phones_parses(language):
    grammar = tree_sitter.Language(PHONES[language].language())
    parser = tree_sitter.Parser(grammar)
    found = [block for page in PAGES for block in blocks(page, language)]
    assert found
    for block in found:
        assert not parser.parse(block.encode()).root_node.has_error, block
    broken = found[0].replace(")", "", 1)
    assert parser.parse(broken.encode()).root_node.has_error


@ONCE
@pytest.mark.parametrize("page", pages_with("toml"))
def test_toml_is_a_recipe(page, tmp_path):
    for block in blocks(page, "toml"):
        (tmp_path / "recipe.toml").write_text(block, encoding="utf-8")
        assert km.training.load_recipe(tmp_path / "recipe.toml", "ConvFormerS18")


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_runs_to_its_end(page, files, hub):
    namespace: dict[str, Any] = {
        "dataset": Images(),
        "MyMixer": MyMixer,
    }
    for number, block in enumerate(blocks(page, "python")):
        code = compile(block, f"{page.name}, block {number}", "exec")
        exec(code, namespace)


@ONCE
@pytest.mark.parametrize("page", pages_with(*SHELL))
def test_commands_run_to_their_end(page, files):
    for words in command_lines(page):
        program, *arguments = words
        if program == "make":
            check_target(arguments[0])
        elif program == "pip":
            check_extras(arguments)
        elif Path(program).name == "python":
            check_program(arguments)
        else:
            assert Path(program).name == "keras-metaformer", words
            parse(arguments) if arguments[0] in LONG else run(arguments)


@ONCE
@pytest.mark.parametrize("guide", EXTRAS)
def test_notebooks_hold_the_code_of_their_pages(guide):
    page = ROOT / "docs" / f"{guide}.md"
    notebook = make_notebook(page)

    nbformat.validate(notebook)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell + "\n" in blocks(page, "python")] == [
        block.strip() for block in blocks(page, "python")
    ]
    install = cells[0]
    assert install.startswith("%pip install")
    check_extras([install])
    text = "".join(cell.source for cell in notebook.cells)
    assert not re.search(r"\]\([^):]*\.md", text)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "guide",
    [
        pytest.param(guide, marks=() if guide == "mixers" else pytest.mark.large)
        for guide in EXTRAS
    ],
)
def test_notebooks_run_to_their_end(guide, files, monkeypatch):
    """From start to end in a kernel; what the pages' own tests leave out is parsed."""
    notebook = make_notebook(ROOT / "docs" / f"{guide}.md")

    execute(notebook, files, monkeypatch, USED)

    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source)


@pytest.mark.one_backend
@pytest.mark.large
@pytest.mark.parametrize("source", ["1 / 0", "!keras-metaformer no-such-verb"])
def test_cells_that_fail_would_be_noticed(source, tmp_path, monkeypatch):
    notebook = new_notebook(cells=[new_code_cell(source)])
    with pytest.raises(CellExecutionError):
        execute(notebook, tmp_path, monkeypatch)


def run(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments, input="y\n")
    assert result.exit_code == 0, f"{arguments}\n{result.output}"


def parse(arguments: list[str]) -> None:
    """Fails as the command line does on what it does not understand."""
    command: Any = typer.main.get_command(app)
    verb, *arguments = arguments
    command.commands[verb].make_context(verb, arguments)


def check_program(arguments: list[str]) -> None:
    """A script, or a module of the checkout; `python -m benchmarks` is parsed too."""
    if arguments[0] != "-m":
        assert (ROOT / arguments[0]).is_file(), arguments
        return
    module, arguments = arguments[1], arguments[2:]
    assert importlib.util.find_spec(module) is not None, module
    if module == "benchmarks":
        command: Any = typer.main.get_command(benchmarks)
        command.make_context(module, arguments)


def check_target(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def check_extras(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extras in re.findall(r"\[(.+?)\]", " ".join(arguments)):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


@ONCE
def test_wrong_commands_would_be_noticed(files):
    with pytest.raises(Exception, match="No such option"):
        parse(["demo", "--no-such-option"])
    with pytest.raises(AssertionError, match="nothing"):
        check_target("nothing")
    with pytest.raises(AssertionError):
        check_extras(["install", "keras-metaformer[nothing]"])
    with pytest.raises(AssertionError, match="--model"):
        run(["classify", "photos/", "--model", "ConvFormerS19"])


@ONCE
@pytest.mark.parametrize("script", ["scripts.update_readme", "scripts.draw_reported"])
def test_written_tables_are_current(script):
    check = subprocess.run(
        [sys.executable, "-m", script, "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert check.returncode == 0, f"run python -m {script}\n{check.stderr}"


@ONCE
def test_what_is_reported_names_its_source_and_is_what_the_catalogue_says():
    rows = draw_reported.rows()
    models = (ROOT / "keras_metaformer_lite" / "models.json").read_text("utf-8")
    macs = {model["name"]: model["macs"] / 1e9 for model in json.loads(models)}
    assert {row["family"] for row in rows} == {
        *draw_reported.OURS,
        *draw_reported.OTHERS,
    }
    for row in rows:
        assert re.match(r"https://(arxiv\.org|github\.com)/\S+", row["source"]), row
        assert 70 < float(row["top1_percent"]) < 86
        if row["family"] in draw_reported.OURS:
            name = row["model"].replace("-", "")
            assert catalogue.find(name, "imagenet").top1 == float(row["top1_percent"])
            assert float(row["macs_billions"]) == pytest.approx(macs[name], rel=0.04)


@ONCE
@pytest.mark.parametrize("script", [draw_blocks, draw_charts])
def test_drawings_are_current(script):
    assert script.main(["--check"]) == 0, f"run python -m {script.__name__}"


@ONCE
def test_every_file_that_is_linked_is_there():
    for page in PAGES:
        links = re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []
    assert len(re.findall(r"\]\(([^)#:]+)\)", README)) >= 4


@ONCE
def test_the_readme_shows_the_commands_that_a_newcomer_needs():
    commands = command_lines(ROOT / "README.md")
    verbs = {words[1] for words in commands if words[0] == "keras-metaformer"}
    targets = {words[1] for words in commands if words[0] == "make"}

    assert verbs >= {"list", "classify", "demo"}
    assert targets >= {"demo", "test"}


def calls_in_tables(page: Path) -> list[str]:
    rows = re.findall(r"^\|.*\|$", page.read_text("utf-8"), flags=re.MULTILINE)
    return [call for row in rows for call in re.findall(r"`(km\.[^`]*\))`", row)]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.stem) for page in PAGES if calls_in_tables(page)],
)
def test_calls_in_tables_build_models(page):
    built = {}
    with undrawn():
        for call in calls_in_tables(page):
            model = eval(call, {"km": km})
            assert isinstance(model, keras.Model), call
            built[call] = model.count_params()
            keras.utils.clear_session()
    assert len(built) >= 5
