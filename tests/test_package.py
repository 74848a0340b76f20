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
    "ai_edge_litert PIL filelock h5py huggingface_hub matplotlib rich safetensors "
    "sklearn tensorflow_datasets typer"
).split()
BACKENDS = ("tensorflow", "jax", "torch")

#: What each part of the package may import of it, besides itself.
ALLOWED = {
    "layers": set(),
    "blocks": {"layers"},
    "models": {"layers", "blocks"},
    "weights": {"layers", "data"},
    "data": set(),
    "applications": {"layers", "blocks", "models", "weights", "data"},
    "demo": {
        "layers",
        "blocks",
        "models",
        "weights",
        "data",
        "inference",
        "export",
    },
    "inference": {"layers", "blocks", "models", "weights", "data"},
    "export": {"layers", "blocks", "models", "weights", "data", "inference"},
    "explain": {"layers", "blocks", "models", "weights", "data", "inference"},
    "benchmark": {"export"},
    "keras_import": set(),
}
#: The catalogue is data, which says what a constructor's `weights` takes; and a builder
#: hands a model to the loader at the end, in a function.
EXCEPTIONS = {
    ("models.variant", "weights.catalogue"),
    ("models.variant", "weights.loading"),
    ("models.listing", "weights.catalogue"),
    ("models.metaformer", "weights.loading"),
    ("models.isotropic", "weights.loading"),
}
#: Below everything: they know nothing of the package.
BELOW_ALL = {"arrays", "names", "processes"}
#: These put everything together.
ABOVE_ALL = ("__init__", "__main__", "cli")


def _run(code: str) -> Any:
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
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
    assert set(new) - set(sys.stdlib_module_names) == {"keras_metaformer"}


def test_importing_makes_no_tensor_and_no_model():
    counts = _run(
        "import gc, json, keras, keras_metaformer\n"
        "print(json.dumps(sum(isinstance(thing, (keras.Variable, keras.Layer))"
        " for thing in gc.get_objects())))\n"
    )
    assert counts == 0


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        yield ".".join(parts), path


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported name in full, and whether at the module's top."""
    tree = ast.parse(path.read_text("utf-8"))
    top = set(map(id, tree.body))
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


def _names_by_module() -> dict[str, list[str]]:
    """The public names as type checkers see them: the imports of `__init__`."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in map(id, tree.body):
            assert node.module is not None
            module = node.module.removeprefix("keras_metaformer").removeprefix(".")
            names = [alias.name for alias in node.names]
            # `from keras_metaformer import layers` imports a module.
            found |= {module: names} if module else {name: [] for name in names}
    return found


def _imported_with_the_package() -> dict[str, Path]:
    """The modules that run with Keras and the package, by their top-level imports."""
    paths = dict(_modules())
    found: dict[str, Path] = {}
    waiting = ["__init__", *_names_by_module()]
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
    assert {"layers.star_relu", "models.variant", "weights.files.readers"} <= set(
        modules
    )
    wrong = [
        (module, name)
        for module, path in modules.items()
        for name, at_top in _imports(path)
        if at_top and name.split(".")[0] in (*FOREIGN, *BACKENDS)
    ]
    assert not wrong


@pytest.mark.backend_independent
def test_nothing_imports_the_command():
    for module, path in _modules():
        if module.split(".")[0] not in ABOVE_ALL:
            imported = {part.split(".")[0] for part, _ in _parts_of_the_package(path)}
            assert "cli" not in imported, module


@pytest.mark.backend_independent
def test_the_exceptions_are_still_needed():
    found = {
        (module, imported)
        for module, path in _modules()
        for imported, _ in _parts_of_the_package(path)
    }
    assert found >= EXCEPTIONS


@pytest.mark.backend_independent
def test_public_names_exist_once_and_are_what_type_checkers_see():
    assert len(set(keras_metaformer.__all__)) == len(keras_metaformer.__all__)
    seen = {}
    for module, names in _names_by_module().items():
        imported = importlib.import_module(f"keras_metaformer.{module}")
        seen |= {name: getattr(imported, name) for name in names}
        if "." not in module:
            seen[module] = imported
    assert set(seen) == set(keras_metaformer.__all__)
    assert set(seen) <= set(dir(keras_metaformer))
    for name, value in seen.items():
        assert getattr(keras_metaformer, name) is value
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = keras_metaformer.nothing  # pyright: ignore[reportAttributeAccessIssue]


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
        "import keras_metaformer, keras",
        "import keras_metaformer.models.registry, keras",
        "from keras_metaformer.layers.star_relu import StarReLU; import keras",
        "from keras_metaformer import export, MetaFormer; import keras",
        "from keras_metaformer import *; import keras",
    ],
)
def test_keras_finds_the_classes_of_saved_models(imports, saved_model):
    found = _run(
        "import sys\n"
        f"{imports}\n"
        "import json, keras_metaformer\n"
        "finders = [type(finder).__module__ for finder in sys.meta_path]\n"
        f"model = keras.saving.load_model({str(saved_model)!r})\n"
        "missing = set(keras_metaformer.__all__) - set(vars(keras_metaformer))\n"
        "print(json.dumps([model.count_params(), sorted(missing), finders]))\n"
    )
    parameters, missing, finders = found
    assert parameters == build_small("caformer").count_params()
    assert missing == []
    assert "keras_metaformer.keras_import" not in finders


@pytest.mark.backend_independent
def test_what_needs_no_keras_brings_it_not_in():
    imported = _run(
        "import json, sys\n"
        "import keras_metaformer\n"
        "from keras_metaformer import export\n"
        "from keras_metaformer.cli import app\n"
        "export.LiteRTModel\n"
        "app(['export', '--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    assert "keras_metaformer.export.runner" in imported
    assert not {"keras", *BACKENDS} & set(imported)
