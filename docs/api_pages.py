"""Writes the pages of the API: every public name, on the page of its module."""

import inspect
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras_metaformer as km
import keras_metaformer.hub
import keras_metaformer_lite
from keras_metaformer.models import families

#: The name under which an object, by its id, is described.
_DESCRIBED: dict[int, str] = {}
#: Titles of the pages, where the module's name is none.
_TITLES = {
    "layers.mixers": "Layers: mixers",
    "layers.activations": "Layers: activations",
    "layers.norms": "Layers: norms",
    "layers.scales": "Layers: scales",
    "layers": "Layers: parts and other layers",
    "blocks": "Blocks",
    "data": "Data",
    "explain": "Explaining",
    "export": "Export",
    "features": "Features",
    "hub": "KerasHub",
    "training": "Training",
}


def public_modules() -> dict[str, ModuleType]:
    """The modules whose public names have pages, by their names below the package."""
    modules = {
        name: getattr(km, name)
        for name in km.__all__
        if inspect.ismodule(getattr(km, name)) and name != "applications"
    }
    from keras_metaformer import data

    return {**modules, "data": data, "hub": keras_metaformer.hub}


def public_functions() -> list[str]:
    """Names of `km` itself that are neither modules nor constructors of models."""
    constructors = set(families.names())
    return [
        name
        for name in km.__all__
        if not inspect.ismodule(getattr(km, name)) and name not in constructors
    ]


def write_api_pages(folder: Path) -> None:
    """Write `.rst` pages, and an index of them, in place of those of the last time.

    Args:
        folder: that is made, and holds nothing else.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _DESCRIBED.clear()
    for name, text in _pages():
        (folder / f"{name}.rst").write_text(text, encoding="utf-8")


def _pages() -> Iterator[tuple[str, str]]:
    yield (
        "functions",
        _page(
            "Functions and builders",
            "In ``keras_metaformer``, imported as ``km``, beside all named models.",
            [
                _titled(f"km.{name}", f"keras_metaformer.{name}", getattr(km, name))
                for name in sorted(public_functions(), key=str.lower)
            ],
        ),
    )
    members: dict[str, list[str]] = {}
    for name, module in public_modules().items():
        for member in module.__all__:
            page = _page_of(name, getattr(module, member))
            text = _object(f"keras_metaformer.{name}.{member}", getattr(module, member))
            members.setdefault(page, []).append(text)
    for page, texts in members.items():
        module = page.partition(".")[0]
        opening = f"In ``keras_metaformer.{module}``."
        title = _TITLES.get(page, module.capitalize())
        yield page.replace(".", "_"), _page(title, opening, texts)
    names = keras_metaformer_lite.__all__
    yield (
        "lite",
        _page(
            "Without Keras",
            "``keras_metaformer_lite`` stands in the same wheel and needs no Keras.",
            [
                _object(
                    f"keras_metaformer_lite.{name}",
                    getattr(keras_metaformer_lite, name),
                )
                for name in names
            ],
        ),
    )
    modules = list(dict.fromkeys(families.get(n).family for n in families.names()))
    for family in modules:
        yield f"family_{family}", _family_page(family)
    order = ["functions", *(page.replace(".", "_") for page in sorted(members)), "lite"]
    yield (
        "models",
        _page(
            "Models by name",
            "Constructors in the manner of ``keras.applications``, one page a family, "
            "and all of them in ``km``.",
            [_toctree(f"family_{family}" for family in modules)],
        ),
    )
    yield (
        "index",
        _page(
            "API",
            "Made of the docstrings. ``km`` is ``keras_metaformer``.",
            [_toctree([order[0], "models", *order[1:]])],
        ),
    )


def _page_of(module: str, member: Any) -> str:
    """Layers are many: those of a folder of their own have a page of their own."""
    if module != "layers":
        return module
    parts = member.__module__.split(".")
    return ".".join(parts[1:3]) if len(parts) > 3 else module


def _family_page(family: str) -> str:
    module = getattr(km.applications, family)
    names = [name for name in families.names() if families.get(name).family == family]
    others = ["preprocess_input", "decode_predictions"]
    return _page(
        _family_title(names),
        f"{inspect.getdoc(module)}\n\nIn ``keras_metaformer.applications.{family}``.",
        [_object(f"keras_metaformer.{name}", getattr(km, name)) for name in names]
        + [
            _object(
                f"keras_metaformer.applications.{family}.{name}", getattr(module, name)
            )
            for name in others
        ],
    )


def _family_title(names: list[str]) -> str:
    return f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]


def _page(title: str, opening: str, texts: Iterable[str]) -> str:
    line = "=" * len(title)
    return "\n".join([title, line, "", opening, "", *texts])


def _titled(title: str, name: str, member: Any) -> str:
    return f"{title}\n{'-' * len(title)}\n\n{_object(name, member)}"


def _object(name: str, member: Any) -> str:
    """The directive for a member, or where it is described if another page does it."""
    described = _DESCRIBED.setdefault(id(member), name)
    if described != name:
        return f"``{name.rpartition('.')[2]}``: see :py:obj:`{described}`.\n"
    if not inspect.isclass(member):
        return f".. autofunction:: {name}\n"
    return f".. autoclass:: {name}\n   :members:\n"


def _toctree(pages: Iterable[str]) -> str:
    return ".. toctree::\n   :maxdepth: 1\n\n   " + "\n   ".join(pages) + "\n"
