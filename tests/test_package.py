"""What `import keras_metaformer` costs, and who imports whom."""

import ast
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import pytest

import keras_metaformer
from tests.small_models import build_small

PACKAGE = Path(keras_metaformer.__file__).parent
#: Backends other than the active one, and what only some jobs need.
FOREIGN = (
    "ai_edge_litert PIL filelock h5py huggingface_hub matplotlib pyarrow rich "
    "safetensors sklearn tensorboardX tensorflow_datasets typer"
).split()
BACKENDS = ("tensorflow", "jax", "torch")

#: What each part of the package may import of it, besides itself.
ALLOWED = {
    "layers": set(),
    "blocks": {"layers"},
    "models": {"layers", "blocks"},
    "weights": {"layers"},
    "data": set(),
    "applications": {"layers", "models"},
    "demo": {"layers", "models", "data", "export"},
    "features": {"layers", "blocks", "models"},
    "explain": {"layers", "blocks", "models", "features"},
    "sharing": {"layers", "blocks", "models", "weights"},
    "hub": {"layers", "models", "features"},
    "inference": {"layers", "blocks", "models"},
    "export": {"layers", "blocks", "models", "inference"},
    "training": {"models", "data"},
}
#: A builder hands a model to the loader at the end, in a function.
EXCEPTIONS = {
    ("models.families", "weights.loading"),
    ("models.builder", "weights.loading"),
}
#: Below everything: they know nothing of the package.
BELOW_ALL = {"arrays"}
#: These put everything together.
ABOVE_ALL = ("__init__", "api")
#: The package of what needs no Keras, below the other; its command runs all.
LITE = PACKAGE.parent / "keras_metaformer_lite"


def _run(code: str, backend: str | None = None) -> Any:
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        env=os.environ | {"KERAS_BACKEND": backend or keras.backend.backend()},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_importing_brings_in_nothing_that_keras_has_not():
    # Keras brings in parts of other backends, too: what counts is what we add.
    new = _run(
        "import sys, json, keras\n"
        "before = set(sys.modules)\n"
        "import keras_metaformer\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(json.dumps(sorted(new)))\n"
    )
    assert set(new) - set(sys.stdlib_module_names) == {
        "keras_metaformer",
        "keras_metaformer_lite",
    }


def test_importing_makes_no_tensor_and_no_model():
    counts = _run(
        "import gc, json, keras, keras_metaformer\n"
        "print(json.dumps(sum(isinstance(thing, (keras.Variable, keras.Layer))"
        " for thing in gc.get_objects())))\n"
    )
    assert counts == 0


@pytest.mark.backend_independent
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_model_of_a_file_runs_without_an_import_of_tensorflow(backend, tmp_path):
    # Keras imports it, where it is installed, to write a config: longer than a load.
    build_small("caformer").save(tmp_path / "model.keras")
    imported = _run(
        "import json, sys, numpy\n"
        "import keras_metaformer as km\n"
        f"model = km.load({str(tmp_path / 'model.keras')!r})\n"
        "model.predict(numpy.zeros((1, *model.input_shape[1:])), verbose=0)\n"
        "print(json.dumps('tensorflow' in sys.modules))\n",
        backend,
    )
    assert not imported


def _modules(package: Path = PACKAGE) -> Iterator[tuple[str, Path]]:
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        yield ".".join(parts), path


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported name in full, and whether at the module's top."""
    tree = ast.parse(path.read_text("utf-8"))
    tries = [node for node in tree.body if isinstance(node, ast.Try)]
    top = {id(node) for part in (tree, *tries) for node in part.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


def _parts_of_the_package(path: Path) -> Iterator[tuple[str, bool]]:
    """What a file imports of the package, as `part` or `part.module`."""
    for name, at_top in _imports(path):
        root, _, rest = name.partition(".")
        if root == "keras_metaformer" and rest:
            yield ".".join(rest.split(".")[:2]), at_top


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("module", "path"), [pytest.param(*pair, id=pair[0]) for pair in _modules()]
)
def test_the_direction_of_imports(module, path):
    part = module.split(".")[0]
    if part in ABOVE_ALL:
        return
    imported = {
        name for name, _ in _parts_of_the_package(path) if name.split(".")[0] != part
    }
    if part in BELOW_ALL:
        assert not imported
        return
    assert part in ALLOWED, f"{part}: say in ALLOWED what it may import"
    allowed = ALLOWED[part] | BELOW_ALL
    wrong = {
        name
        for name in imported
        if name not in allowed
        and name.split(".")[0] not in allowed
        and (module, name) not in EXCEPTIONS
    }
    assert not wrong, f"{module} imports {sorted(wrong)}"


def _imported_with_the_package() -> dict[str, Path]:
    """The modules that run with Keras and the package, by their top-level imports."""
    paths = dict(_modules())
    found: dict[str, Path] = {}
    waiting = ["__init__"]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found[module] = paths[module]
        for name, at_top in _imports(paths[module]):
            root, *parts = name.split(".")
            if root == "keras_metaformer" and at_top:
                # `from a.b import c`: a, a.b and, if it is a module, a.b.c.
                for end in range(1, len(parts) + 1):
                    candidate = ".".join(parts[:end])
                    if candidate in paths:
                        waiting.append(candidate)
    return found


@pytest.mark.backend_independent
def test_heavy_libraries_are_imported_inside_functions():
    modules = _imported_with_the_package()
    assert {
        "layers.activations.star_relu",
        "models.families",
        "weights.files.readers",
    } <= set(modules)
    wrong = [
        (module, name)
        for module, path in modules.items()
        for name, at_top in _imports(path)
        if at_top and name.split(".")[0] in (*FOREIGN, *BACKENDS)
    ]
    assert not wrong


@pytest.mark.backend_independent
def test_what_needs_no_keras_imports_nothing_that_does():
    """The command does so when it runs a model, inside functions."""
    for module, path in _modules(LITE):
        for name, at_top in _imports(path):
            root = name.split(".")[0]
            needs_keras = root in ("keras", "keras_metaformer", *BACKENDS)
            runs_models = module.split(".")[0] in ("cli", "benchmark")
            assert not needs_keras or (runs_models and not at_top), (module, name)


@pytest.mark.backend_independent
def test_nothing_imports_the_command():
    for package in (PACKAGE, LITE):
        for module, path in _modules(package):
            for name, _ in _imports(path):
                of_command = name.startswith("keras_metaformer_lite.cli")
                assert not of_command or module.startswith("cli"), (module, name)


@pytest.mark.backend_independent
def test_what_is_allowed_is_still_needed():
    found = {
        (module, imported)
        for module, path in _modules()
        for imported, _ in _parts_of_the_package(path)
    }
    assert found >= EXCEPTIONS
    parts = {(each.split(".")[0], other.split(".")[0]) for each, other in found}
    allowed = {(part, other) for part, others in ALLOWED.items() for other in others}
    assert allowed <= parts
    assert {part for part in ALLOWED if not (PACKAGE / part).is_dir()} == set()


@pytest.mark.backend_independent
def test_public_names():
    tree = ast.parse((PACKAGE / "api.py").read_text("utf-8"))
    listed = []
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom), "nothing but names stands in api.py"
        for alias in node.names:
            assert alias.asname == alias.name  # for type checkers: it is public
            listed.append(alias.name)
            imported = importlib.import_module(str(node.module))
            assert getattr(keras_metaformer, alias.name) is getattr(
                imported, alias.name
            )
    assert sorted(listed) == sorted(keras_metaformer.__all__)
    assert len(set(listed)) == len(listed)
    shown = [name for name in dir(keras_metaformer) if not name.startswith("__")]
    assert shown == sorted(listed)


@pytest.mark.backend_independent
def test_a_misspelt_name_is_told_its_like():
    with pytest.raises(AttributeError, match=r"ConvFormerS81.*'ConvFormerS18'"):
        _ = keras_metaformer.ConvFormerS81  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(keras_metaformer, "nothing")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    build_small("caformer").save(path)
    return path


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    "imports",
    [
        "import keras, keras_metaformer",
        "import keras_metaformer.layers.activations.star_relu, keras",
    ],
)
def test_keras_finds_the_classes_of_saved_models(imports, saved_model):
    """And the user's import system is as it was."""
    parameters, finders = _run(
        "import sys\n"
        "before = list(sys.meta_path), list(sys.path_hooks)\n"
        f"{imports}\n"
        "import json\n"
        f"model = keras.saving.load_model({str(saved_model)!r})\n"
        "ours = [finder for finder in sys.meta_path if finder not in before[0]"
        " and 'keras_metaformer' in type(finder).__module__]\n"
        "print(json.dumps([model.count_params(), len(ours)]))\n"
    )
    assert parameters == build_small("caformer").count_params()
    assert finders == 0


@pytest.mark.backend_independent
def test_what_needs_no_keras_runs_where_there_is_none():
    """As on a small device: neither Keras nor a backend can be imported."""
    names = _run(
        "import json, sys\n"
        "for name in ('keras', 'tensorflow', 'jax', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "import keras_metaformer_lite\n"
        "from keras_metaformer_lite.cli import app\n"
        "app(['export', '--help'], standalone_mode=False)\n"
        "print(json.dumps(keras_metaformer_lite.__all__))\n"
    )
    assert {"LiteRTModel", "load_image", "list_models", "list_weights"} <= set(names)
