"""The pages of `explain` and `compare`, whole and harmless."""

import html
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from keras_metaformer.explain import Probe, disagreements, report
from keras_metaformer.explain.cam import METHODS
from keras_metaformer.models.pyramid_model import described
from keras_metaformer_lite.cli import app
from keras_metaformer_lite.description import ImageDescription
from keras_metaformer_lite.examples import photograph_files
from keras_metaformer_lite.images import EvaluationTransform
from tests.layer_checks import randomize
from tests.small_models import metaformer

pytestmark = pytest.mark.one_backend

NAMES = ("ant", "big_bee", "<b>cat</b>", "dog", "elk")


@pytest.fixture(scope="module")
def model() -> Any:
    built: Any = metaformer("self_attention")
    randomize(built)
    built.image_description = ImageDescription(
        EvaluationTransform(32), class_names=NAMES
    )
    return built


def always(name: str, names: tuple[str, ...] = NAMES) -> Any:
    """A model of 16 x 16 pixels that answers one class, and looks at brightness."""
    image: Any = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(2, 3, padding="same", activation="relu", name="map")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    built = keras.Model(
        image, keras.layers.Dense(len(names), activation="softmax", name="p")(x)
    )
    randomize(built)
    head: Any = built.layers[-1]
    kernel, bias = head.get_weights()
    bias[:] = 0
    bias[names.index(name)] = 20
    head.set_weights([kernel, bias])

    return described(
        built, ImageDescription(EvaluationTransform(16), class_names=names)
    )


def check_page(path: Path) -> str:
    """The document, which loads nothing and runs nothing."""
    document = path.read_text("utf-8")
    assert document.startswith("<!doctype html>")
    assert document.rstrip().endswith("</html>")
    assert "<script" not in document
    assert set(re.findall(r'(?:src|href)="(\w+):', document)) == {"data"}
    assert "default-src 'none'" in document
    assert len(list(path.parent.glob("*.tmp*"))) == 0
    for tag in ("div", "figure", "table", "p"):
        opened = len(re.findall(rf"<{tag}[ >]", document))
        assert opened == document.count(f"</{tag}>"), tag
    return document


def test_a_report_has_everything_and_escapes_names(model, tmp_path):
    files = list(photograph_files())[:2]
    path = tmp_path / "report.html"

    found = report(model, files, path, names=["a<i>", "b"])

    document = check_page(path)
    assert set(found.maps) == {*METHODS, "smooth_grad"}
    assert len(found.answers) == 2
    assert [len(each) for each in found.answers] == [5, 5]
    probabilities = model.predict_on_batch(model.image_description.prepare(files))
    for answers, row in zip(found.answers, probabilities, strict=True):
        values = [value for _, value in answers]
        np.testing.assert_allclose(values, np.sort(row)[::-1], rtol=1e-3)
    assert "&lt;b&gt;cat&lt;/b&gt;" in document and "<b>" not in document
    assert "a&lt;i&gt;" in document and "big bee" in document
    read = html.unescape(document)
    for heading, result in found.sections.items():
        assert f">{heading}<" in read
        assert result.reading in re.sub("</?code>", "`", read)
    assert len(found.sections) == 5  # This model has no matrices over the tokens.
    # The pictures, and in each of two images itself and its maps.
    assert document.count("<img") == 5 + 2 * (1 + len(found.maps))


def test_a_report_of_a_model_of_others(tmp_path):
    found = report(always("dog"), list(photograph_files())[:1], tmp_path / "r.html")
    assert found.sections == {}
    assert found.answers[0][0][0] == "dog"
    check_page(tmp_path / "r.html")
    with pytest.raises(ValueError, match="folder that exists"):
        report(always("dog"), [], tmp_path / "nowhere" / "r.html")
    with pytest.raises(ValueError, match="Only a classifier"):
        headless = metaformer(include_top=False, classes=1000)
        report(headless, np.zeros((1, 32, 32, 3), "float32"), tmp_path / "r.html")
    with pytest.raises(ValueError, match=r"one name for each of 1.*2 names"):
        image = np.zeros((1, 16, 16, 3), "float32")
        report(always("dog"), image, tmp_path / "r.html", names=["a", "b"])


def test_where_models_disagree_by_the_names_of_their_classes(tmp_path):
    files = [*photograph_files(), tmp_path / "broken.jpg"]
    files[-1].write_bytes(b"no image")
    mixed = ("elk", "dog", "ant", "<b>cat</b>", "big_bee")

    same = disagreements(always("dog"), always("dog", mixed), files)
    assert (same.images, same.disagreed, same.found) == (len(files) - 1, 0, ())
    assert [name for name, _ in same.unreadable] == ["broken.jpg"]

    found = disagreements(
        Probe(always("dog")),
        always("elk", mixed),
        files,
        names=("one", "other"),
        number=2,
    )
    assert found.disagreed == len(files) - 1
    assert len(found.found) == 2
    for each in found.found:
        assert each.answers == ("dog", "elk")
        (own, _), (_, other) = each.probabilities
        assert own > 0.9 and other > 0.9
        assert each.maps[0].shape == (16, 16)
    found.save_page(tmp_path / "compare.html")
    document = check_page(tmp_path / "compare.html")
    assert "agree on 0 of" in document and "broken.jpg" in document
    assert found.png()[:4] == same.png()[:4] == b"\x89PNG"

    with pytest.raises(ValueError, match=r"same classes.*'fly'"):
        disagreements(always("dog"), always("dog", ("fly", *mixed[1:])), files)
    with pytest.raises(ValueError, match=r"can be read.*1 images"):
        disagreements(always("dog"), always("dog"), files[-1:])


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_commands(model, tmp_path):
    files = list(photograph_files())[:2]
    model.save(tmp_path / "one.keras")
    other: Any = metaformer()
    randomize(other, seed=1)
    other.image_description = model.image_description
    other.save(tmp_path / "other.keras")
    page = tmp_path / "page.html"

    result = run("explain", *files, "--model", tmp_path / "one.keras", "--html", page)
    assert result.exit_code == 0, result.output
    assert "page.html" in result.output and " s, " in result.output
    assert "What one.keras sees" in check_page(page)

    (tmp_path / "broken.png").write_bytes(b"nothing")
    result = run(
        "explain",
        files[0],
        tmp_path / "broken.png",
        "--model",
        tmp_path / "one.keras",
        "--html",
        page,
        "--json",
    )
    assert result.exit_code == 1
    assert '"peak_bytes"' in result.output and "broken.png" in result.output

    result = run(
        "compare",
        tmp_path / "one.keras",
        tmp_path / "other.keras",
        "--images",
        files[0],
        "--images",
        files[1],
        "--html",
        tmp_path / "compare.html",
    )
    assert result.exit_code == 0, result.output
    assert "of 2 images" in result.output
    check_page(tmp_path / "compare.html")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "x.jpg", "--model", "m.tflite", "--html", "p.html"), ".keras"),
        (("explain", "x.jpg", "--model", "CAFormer", "--html", "p.html"), "one like"),
        (("explain", "x.jpg", "--model", "CAFormerS18", "--html", "no/p.html"), "no"),
        (("compare", "m.keras", "n.keras", "--images", "."), "no such file"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_loaded(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert not list(tmp_path.iterdir())
