"""What `import keras_metaformer` costs, and who imports whom."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

import keras_metaformer

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
    "weights": {"layers", "models.registry", "data"},
    "data": set(),
    "applications": {"layers", "blocks", "models", "weights", "data"},
    "training": {
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
    "benchmark": {"layers", "blocks", "models", "inference"},
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
#: Below everything: it knows nothing of the package.
BELOW_ALL = "arrays"
#: These put everything together.
ABOVE_ALL = ("__init__", "__main__", "cli")


def _run(code: str) -> dict:
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
    if part == BELOW_ALL:
        assert not imported
        return
    assert part in ALLOWED, f"{part}: say in ALLOWED what it may import"
    allowed = ALLOWED[part] | {BELOW_ALL}
    wrong = {
        name
        for name in imported
        if name not in allowed
        and name.split(".")[0] not in allowed
        and (module, name) not in EXCEPTIONS
    }
    assert not wrong, f"{module} imports {sorted(wrong)}"


def _imported_with_the_package() -> dict[str, Path]:
    """The modules that `import keras_metaformer` runs, by their top-level imports."""
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
    assert {"layers.star_relu", "models.variant", "weights.readers"} <= set(modules)
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
def test_public_names_exist_once():
    for name in keras_metaformer.__all__:
        assert hasattr(keras_metaformer, name)
    assert len(set(keras_metaformer.__all__)) == len(keras_metaformer.__all__)
