"""What is in the wheel."""

import os
import shutil
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from keras_metaformer_lite.cli.web_server import PAGE, PageMissingError, page_files

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("keras_metaformer", "keras_metaformer_lite")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    builder = WheelBuilder(str(ROOT))
    folder = str(tmp_path_factory.mktemp("wheel"))
    (path,) = builder.build(directory=folder, versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        yield archive


def _named(wheel, start):
    return {name for name in wheel.namelist() if name.startswith(start)}


def test_every_file_of_the_packages_and_nothing_else(wheel):
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.*")
        if "__pycache__" not in path.parts and not path.is_relative_to(PAGE)
    }
    packages = {name for package in PACKAGES for name in _named(wheel, f"{package}/")}
    page = _named(wheel, "keras_metaformer_lite/page/")
    assert packages - page == {name for name in files if (ROOT / name).is_file()}
    (information,) = {name.split("/")[0] for name in set(wheel.namelist()) - packages}
    assert information.endswith(".dist-info")
    assert f"{information}/licenses/NOTICE" in wheel.namelist()
    entry_points = wheel.read(f"{information}/entry_points.txt").decode()
    assert "keras-metaformer = keras_metaformer_lite.cli:main" in entry_points


def test_the_page(wheel):
    """`keras-metaformer web` serves it without the repository."""
    try:
        files = page_files()
    except PageMissingError as error:
        pytest.skip(str(error))
    folder = "keras_metaformer_lite"
    assert _named(wheel, f"{folder}/page/") == {
        f"{folder}/{path.relative_to(PAGE.parent).as_posix()}"
        for path in files.values()
        if path.is_relative_to(PAGE)
    }
    for name in ("build/worker.js", "litert/litert_wasm_internal.wasm", "index.html"):
        content = wheel.read(f"{folder}/page/{name}")
        assert content == (PAGE / name).read_bytes()


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_who_builds_it_again_has_the_same_bytes(builder, tmp_path):
    """In another folder and later; the page, which npm builds, is left out."""
    built = []
    for name in ("here", "there"):
        source = tmp_path / name
        # Not `copy2`, which keeps the times of the files.
        for folder in (*PACKAGES, "scripts"):
            shutil.copytree(
                ROOT / folder,
                source / folder,
                copy_function=shutil.copyfile,
                ignore=shutil.ignore_patterns("__pycache__", "page"),
            )
        for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            shutil.copyfile(ROOT / file, source / file)
        if built:
            for path in source.rglob("*.py"):
                os.utime(path, (2e9, 2e9))
        folder = str(tmp_path / f"built_{name}")
        (path,) = builder(str(source)).build(directory=folder, versions=["standard"])
        built.append(Path(path).read_bytes())
    assert built[0] == built[1]
