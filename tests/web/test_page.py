"""The page in a real browser, against LiteRT in Python on the same files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_metaformer.export import LiteRTModel, to_litert
from keras_metaformer_lite.examples import photograph_files
from tests.export.models import hierarchical
from tests.web.browser import APPLICATION, Page, chromium, serving

pytestmark = pytest.mark.backend_independent

LABELS = [f"class_{letter}" for letter in "abcdefghij"]
QUICK = {"check_gpu": False, "latency_runs": 0, "verbose": False}


class Files(NamedTuple):
    """Two models that the page takes, one that it cannot, and photographs."""

    model: Path
    logits: Path
    normalised: Path
    china: Path
    sideways: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    files = Files(
        *(folder / f"{name}.tflite" for name in ("model", "logits", "normalised")),
        *(folder / f"{name}.jpg" for name in ("china", "sideways")),
    )
    keras_model = hierarchical(include_preprocessing=True)
    to_litert(keras_model, files.model, labels=LABELS, **QUICK)
    to_litert(
        hierarchical(include_preprocessing=True, classifier_activation=None),
        files.logits,
        input_type="uint8",
        transform={"crop_fraction": 0.875, "interpolation": "bilinear"},
        **QUICK,
    )
    to_litert(hierarchical(), files.normalised, labels=LABELS, **QUICK)
    picture = Image.fromarray(load_sample_image("china.jpg"))
    picture.save(files.china, quality=90)
    turned = Image.Exif()
    turned[0x0112] = 6  # as a telephone held upright writes it
    Image.fromarray(load_sample_image("flower.jpg")).save(files.sideways, exif=turned)
    return files


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def server(files):
    with serving([files.model]) as server:
        yield server


@pytest.fixture
def page(driver, server):
    page = Page(driver, server.url)
    driver.get_log("browser")  # what came before is another test's
    page.open()
    page.run_on("wasm")
    yield page
    driver.execute_script("localStorage.clear()")  # the accelerator is kept there


def check_scores(page, model, image):
    """What is on show is what LiteRT in Python gives for the same file."""
    runner = LiteRTModel(model)
    scores = runner.predict(image)[0]
    if model.stem == "logits":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    names = runner.labels or [f"Class {i}" for i in range(len(scores))]
    names = [name.replace("_", " ") for name in names]
    expected = dict(zip(names, scores, strict=True))
    shown = page.classes()
    assert len(shown) == 5
    # A model that answers everything alike would prove nothing.
    assert max(shown.values()) - min(shown.values()) > 0.01
    for label, probability in shown.items():
        assert probability == pytest.approx(expected[label], abs=1e-3)
    assert sorted(shown.values()) == list(shown.values())[::-1]
    assert min(shown.values()) >= sorted(scores)[-5] - 1e-3
    assert page.error() == ""


@pytest.mark.parametrize("accelerator", ["wasm", "webgpu"])
def test_scores_are_those_of_litert_in_python(accelerator, page, files):
    page.run_on(accelerator)
    page.choose_photograph(files.china)
    check_scores(page, files.model, files.china)
    assert "ms" in page.text("#latency")
    assert page.find(f"input[value={accelerator}]").is_selected()
    isolated = page.driver.execute_script("return crossOriginIsolated")
    assert isolated
    assert page.text("#about").startswith("10 classes · 64")
    assert ("thread" in page.text("#about")) == (accelerator == "wasm")


def test_a_picture_that_the_telephone_says_to_turn(page, files):
    page.choose_photograph(files.sideways)
    check_scores(page, files.model, files.sideways)


def test_samples(page, files):
    samples = [*photograph_files(), APPLICATION / "page/samples/digit.png"]
    assert len(samples) == 4
    for sample in samples:
        page.do(page.find(f"[data-sample='samples/{sample.name}']").click)
        check_scores(page, files.model, sample)


@pytest.mark.parametrize("accelerator", ["wasm", "webgpu"])
def test_another_model(accelerator, page, files):
    """Dropped on the page: uint8, logits, no labels, another crop."""
    page.run_on(accelerator)
    page.choose_photograph(files.china)
    page.drop(files.logits)
    check_scores(page, files.logits, files.china)
    assert "logits" in page.text("#latency")
    assert page.find("#model").text.split() == ["model.tflite", "logits.tflite"]
    page.do(lambda: page.find("#model option").click())
    check_scores(page, files.model, files.china)
    page.drop(files.sideways)
    check_scores(page, files.model, files.sideways)


def test_files_that_cannot_be_used(page, files, tmp_path):
    page.choose_photograph(files.china)
    before = page.classes()
    whole = files.model.read_bytes()
    broken = {
        "half.tflite": (whole[: len(whole) // 2], "damaged or cut off"),
        "empty.tflite": (b"", "empty"),
        "text.tflite": (b"hello, world", "TFL3"),
        "labels.tflite": (whole.replace(b"class_j\n", b"class\nj\n"), "11 labels"),
        "normalised.tflite": (files.normalised.read_bytes(), "pixels 0 to 255"),
        "cut.jpg": (files.china.read_bytes()[:100], "cannot be read as a picture"),
        "text.png": (b"hello, world", "cannot be read as a picture"),
    }
    for name, (content, message) in broken.items():
        (tmp_path / name).write_bytes(content)
        choose = page.open_model if name.endswith(".tflite") else page.choose_photograph
        choose(tmp_path / name)
        assert message in page.error()
        assert name in page.error()
        assert page.find("#error").is_displayed()
        assert page.find("#model").text == "model.tflite"
        assert page.classes() == before
    page.choose_photograph(files.sideways)
    check_scores(page, files.model, files.sideways)


def test_camera(page):
    page.find("#camera").click()
    page.wait("document.querySelectorAll('#classes li').length === 5")
    assert page.find("#video").is_displayed()
    assert page.text("#camera") == "Stop the camera"
    assert sum(page.classes().values()) <= 1.001
    page.find("#camera").click()
    page.wait("!document.querySelector('#video').srcObject")
    assert not page.find("#video").is_displayed()
    assert page.error() == ""


def test_nothing_is_blocked_or_missing(page, files):
    """No error in the console but LiteRT's own log, which it writes as errors."""
    page.choose_photograph(files.china)
    messages = [
        entry["message"]
        for entry in page.driver.get_log("browser")
        if entry["level"] == "SEVERE" and "litert_wasm" not in entry["message"]
    ]
    assert messages == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(scheme, page, files):
    """axe's rules: names, roles, contrast. And no sideways scrolling on a phone."""
    driver = page.driver
    page.choose_photograph(files.china)
    page.choose_photograph(files.model)  # leaves an error message on show
    feature = {"name": "prefers-color-scheme", "value": scheme}
    phone = {"width": 375, "height": 812, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        driver.execute_script(
            (APPLICATION / "node_modules/axe-core/axe.js").read_text()
        )
        violations = driver.execute_async_script(
            "axe.run().then(({ violations }) => arguments[0](violations))"
        )
        width = driver.execute_script("return document.documentElement.scrollWidth")
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert violations == []
    assert width == 375


def test_without_a_network_after_the_first_load(driver, files):
    with serving([files.logits, files.model]) as server:
        page = Page(driver, server.url)
        page.open()
        page.do(lambda: page.find("#model option:nth-child(2)").click())
        page.wait("!document.querySelector('#offline').hidden")
    page.open()
    page.choose_photograph(files.china)
    check_scores(page, files.logits, files.china)
    page.do(lambda: page.find("#model option:nth-child(2)").click())
    page.do(page.find("[data-sample='samples/cat.jpg']").click)
    check_scores(page, files.model, photograph_files()[0])
