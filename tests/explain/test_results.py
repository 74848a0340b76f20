"""Results draw themselves and are written whole."""

import io
import sys

import numpy as np
import pytest

from keras_metaformer.explain import HeatMaps
from keras_metaformer.explain.results import PALETTE, Result, short

pytestmark = pytest.mark.backend_independent


def heat_maps(number: int = 2) -> HeatMaps:
    rng = np.random.default_rng(0)
    return HeatMaps(
        images=rng.integers(0, 255, (number, 16, 24, 3)).astype("uint8"),
        maps=rng.random((number, 16, 24)).astype("float32"),
        coarse=rng.random((number, 2, 3)).astype("float32"),
        method="grad_cam",
        layer="stage_1",
        labels=tuple("a_long_name_of_a_class $x$" for _ in range(number)),
    )


def test_files_by_the_ending(tmp_path):
    from PIL import Image

    found = heat_maps()
    written = found.save(tmp_path / "cam.v1")
    assert [path.name for path in written] == [
        "cam.v1.png",
        "cam.v1.npy",
        "cam.v1.coarse.npy",
    ]
    np.testing.assert_array_equal(np.load(tmp_path / "cam.v1.npy"), found.maps)
    np.testing.assert_array_equal(np.load(tmp_path / "cam.v1.coarse.npy"), found.coarse)
    picture = Image.open(tmp_path / "cam.v1.png")
    assert picture.size == tuple(round(110 * side) for side in found.size)
    assert len(np.unique(np.asarray(picture.convert("L")))) > 50  # It shows something.
    assert [path.name for path in found.save(tmp_path / "one.png")] == ["one.png"]
    assert [path.name for path in found.save(tmp_path / "one.npy")] == ["one.npy"]
    assert found._repr_png_()[:4] == b"\x89PNG"
    assert len(list(tmp_path.iterdir())) == 5  # Nothing temporary is left.
    with pytest.raises(ValueError, match=r"folder that exists.*nowhere"):
        found.save(tmp_path / "nowhere" / "cam")


def test_many_images_are_drawn_in_rows():
    from PIL import Image

    one, many = (
        Image.open(io.BytesIO(heat_maps(number).png())).size for number in (8, 11)
    )
    assert one[0] == many[0] and many[1] == 2 * one[1]


def test_without_matplotlib_the_extra_is_named_and_arrays_are_written(
    tmp_path, monkeypatch
):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = heat_maps()
    with pytest.raises(ImportError, match=r"keras-metaformer\[explain\]"):
        found.save(tmp_path / "cam")
    assert not list(tmp_path.iterdir())
    assert found.save(tmp_path / "cam.npy")


def test_colours_are_told_apart_and_labels_are_no_formulas():
    assert len(set(PALETTE)) == len(PALETTE) == 8
    assert short("a_$b$") == r"a \$b\$"
    assert len(short("x" * 50)) == 20
    with pytest.raises(TypeError):
        Result()  # pyright: ignore[reportAbstractUsage]
