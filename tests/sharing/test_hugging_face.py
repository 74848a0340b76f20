"""Models on the Hugging Face hub, through its real client, on loopback."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.data import EvaluationTransform, ImageDescription
from keras_metaformer.sharing import DownloadError, UploadError, hugging_face
from keras_metaformer.sharing.hugging_face import Address
from keras_metaformer_lite.weights import download
from tests.layer_checks import randomize
from tests.sharing.loopback_hub import TOKEN, Hub, loopback_hub
from tests.small_models import build_small, narrowed
from tests.weights.servers import Answer, Fault, closed_address, drop_hub_client

pytestmark = pytest.mark.one_backend

IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
NAMES = ("cat", "dog", "fox", "hen", "a|b", "<i>", "owl")
WEIGHTS = "model.weights.h5"


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    with loopback_hub(monkeypatch, tmp_path / "hub") as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Any:
    small: Any = build_small("caformer")
    randomize(small)
    small.image_description = ImageDescription(
        EvaluationTransform(64, crop_fraction=0.9), class_names=NAMES
    )
    return small


def _assert_same(loaded: Any, model: Any) -> None:
    for ours, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


def _other(model: Any) -> Any:
    """The same model with other weights."""
    other: Any = keras.models.clone_model(model)
    randomize(other, seed=1)
    return other


def test_there_and_back(hub, model):
    saved = km.save(
        model,
        "hf://me/model",
        licence="apache-2.0",
        metrics={"accuracy": 0.875, "Top 5": 1},
        dataset="Pets of | Oxford",
    )
    (commit,) = set(hub.branches["me/model"].values())
    assert saved == f"hf://me/model@{commit}"
    held = hub.holds("me/model")
    assert set(held) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "metadata.json",
        WEIGHTS,
        "picture.png",
    }
    for source in ("hf://me/model", saved):
        loaded: Any = km.load(source)
        assert loaded.image_description == model.image_description
        _assert_same(loaded, model)
        assert np.ptp(to_numpy(loaded(IMAGES))) > 0
    # What `keras.saving.load_model("hf://me/model")` does with the files.
    folder = hugging_face.fetch(Address.parse("hf://me/model"))
    _assert_same(keras.saving.load_model(folder), model)
    assert len(hub.messages) == 1


def test_the_card_is_made_of_the_model(hub, model):
    from huggingface_hub import ModelCard

    km.save(
        model,
        "hf://me/model",
        licence="apache-2.0",
        metrics={"accuracy": 0.875, "Top 5": 1},
        dataset="Pets of | Oxford",
    )
    held = hub.holds("me/model")
    card: Any = ModelCard(held["README.md"].decode("utf-8"))
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "keras"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results is not None
    assert [
        (result.metric_type, result.metric_value, result.dataset_name)
        for result in card.data.eval_results
    ] == [("accuracy", 0.875, "Pets of | Oxford"), ("top_5", 1.0, "Pets of | Oxford")]
    text = card.text
    assert 'km.load("hf://me/model")' in text
    assert "7 classes: cat, dog, fox, hen, a\\|b, \\<i\\>, owl." in text
    assert "| P2 | 16 x 16 x 16 | 1 | separable convolution |" in text
    assert "| P5 | 2 x 2 x 32 | 1 | self attention |" in text
    assert "shorter side resized to 71" in text
    assert "| accuracy | 0.875 |" in text
    assert f"{model.count_params():,} parameters" in text
    picture = Image.open(io.BytesIO(held["picture.png"]))
    pixels = np.asarray(picture)
    assert picture.mode == "RGB"
    # Each of the four stages is drawn, the first as the tallest.
    drawn = (pixels == (0x9F, 0xC5, 0xE8)).all(-1)
    columns = np.array_split(drawn, 4, axis=1)
    heights = [part.any(axis=1).sum() for part in columns]
    assert heights == sorted(heights, reverse=True)
    assert min(heights) > 0


def test_a_picture_of_ones_own_and_a_model_that_knows_nothing(hub, tmp_path):
    image = keras.Input((8, 8, 3), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    plain = keras.Model(image, pooled, name="plain")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "mine.png")
    km.save(plain, "hf://me/plain", picture=tmp_path / "mine.png")
    held = hub.holds("me/plain")
    assert Image.open(io.BytesIO(held["picture.png"])).size == (20, 10)
    loaded: Any = km.load("hf://me/plain")
    pixels = IMAGES[:, :8, :8]
    np.testing.assert_allclose(to_numpy(loaded(pixels)), pixels.mean((1, 2)), atol=1e-6)
    km.save(plain, "hf://me/plain")
    assert "![" not in hub.holds("me/plain")["README.md"].decode()


def test_what_is_cached_is_asked_for_and_not_fetched_again(hub, model):
    km.save(model, "hf://me/model")
    hub.requests.clear()
    km.load("hf://me/model")
    assert any(WEIGHTS in r.path for r in hub.requests if r.method == "GET")
    hub.requests.clear()
    _assert_same(km.load("hf://me/model"), model)
    assert set(hub.methods()) == {"HEAD"}
    # Of a commit nothing is asked.
    hub.requests.clear()
    km.load(f"hf://me/model@{hub.branches['me/model']['main']}")
    assert hub.requests == []


def test_revisions(hub, model):
    first = km.save(model, "hf://me/model")
    km.load("hf://me/model")
    other = _other(model)
    second = km.save(other, "hf://me/model")
    assert first != second
    _assert_same(km.load("hf://me/model"), other)
    _assert_same(km.load(first), model)
    km.save(model, "hf://me/model@trial")
    _assert_same(km.load("hf://me/model@trial"), model)
    _assert_same(km.load("hf://me/model"), other)
    hub.put("me/model", hub.holds("me/model", "trial"), "refs/pr/1")
    _assert_same(km.load("hf://me/model@refs/pr/1"), model)
    with pytest.raises(DownloadError, match="not there"):
        km.load("hf://me/model@nothing")


def test_private_repositories(hub, model, monkeypatch):
    km.save(model, "hf://me/model", private=True)
    assert hub.private
    _assert_same(km.load("hf://me/model"), model)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match=r"valid token.*401.*Received"):
        km.load("hf://me/model")
    with pytest.raises(UploadError, match=r"Invalid credentials.*Received"):
        km.save(model, "hf://me/model")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(DownloadError, match="hf auth login"):
        km.load("hf://me/model")
    hub.requests.clear()
    with pytest.raises(UploadError, match=r"HF_TOKEN.*Received: target='hf://me/m"):
        km.save(model, "hf://me/model")
    assert hub.requests == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    _assert_same(km.load("hf://me/model"), model)


def test_a_download_that_is_cut_off(hub, model, monkeypatch):
    km.save(model, "hf://me/model")
    assert len(hub.holds("me/model")[WEIGHTS]) > 100_000
    fault = Fault(1000, "close")
    # First the config, as a whole; then the weights, in pieces without end.
    hub.faults = [Fault(1 << 30, "close"), *[fault] * 1000]
    with pytest.raises(DownloadError, match="Received"):
        km.load("hf://me/model")
    hub.faults = [fault]
    _assert_same(km.load("hf://me/model"), model)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "KERAS_METAFORMER_OFFLINE"])
def test_offline(hub, model, monkeypatch, name):
    km.save(model, "hf://me/model")
    with monkeypatch.context() as patch:
        patch.setenv(name, "1")
        with pytest.raises(DownloadError, match="offline mode"):
            km.load("hf://me/model")
    drop_hub_client()
    km.load("hf://me/model")
    drop_hub_client()
    hub.requests.clear()
    monkeypatch.setenv(name, "1")
    _assert_same(km.load("hf://me/model"), model)
    with pytest.raises(UploadError, match="Offline mode"):
        km.save(model, "hf://me/model")
    assert hub.requests == []


def test_a_hub_that_nobody_reaches(hub, model, monkeypatch):
    km.save(model, "hf://me/model")
    km.load("hf://me/model")
    drop_hub_client()
    monkeypatch.setenv("HF_ENDPOINT", closed_address())
    with pytest.warns(UserWarning, match="what its cache has"):
        _assert_same(km.load("hf://me/model"), model)
    with pytest.raises(DownloadError, match="cannot be reached"):
        km.load("hf://me/another")
    with pytest.raises(UploadError, match=r"Could not save.*Received"):
        km.save(model, "hf://me/model")


def test_what_is_half_uploaded_is_not_there(hub, model):
    km.save(model, "hf://me/model")
    before = dict(hub.branches["me/model"])
    other = _other(model)
    hub.uploads_break = True
    with pytest.raises(UploadError, match=r"not at all.*Received"):
        km.save(other, "hf://me/model")
    assert hub.branches["me/model"] == before
    hub.uploads_break = False
    path = "/api/models/me/model/commit/main"
    for status, message in ((500, "500"), (403, "may write")):
        hub.answers[path] = Answer(status, (("X-Error-Message", "no"),), b"{}")
        with pytest.raises(UploadError, match=message):
            km.save(other, "hf://me/model")
        assert hub.branches["me/model"] == before
    _assert_same(km.load("hf://me/model"), model)
    del hub.answers[path]
    km.save(other, "hf://me/model")
    _assert_same(km.load("hf://me/model"), other)


def test_a_card_that_somebody_wrote_stays(hub, model):
    mine = b"---\nlicense: mit\n---\nMy model."
    hub.put("me/model", {"README.md": mine})
    with pytest.warns(UserWarning, match="somebody wrote"):
        km.save(model, "hf://me/model")
    assert hub.holds("me/model")["README.md"] == mine
    hub.put("me/model", {})
    km.save(model, "hf://me/model", metrics={"accuracy": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        km.save(model, "hf://me/model", metrics={"accuracy": 0.75})
    assert b"| accuracy | 0.75 |" in hub.holds("me/model")["README.md"]


def test_timms_layout(hub, model, monkeypatch):
    constructor = narrowed(monkeypatch, "ConvFormerS18")
    timms = constructor(
        weights=None, classes=3, classifier_activation=None, input_shape=(64, 64, 3)
    )
    randomize(timms)
    km.save(model, "hf://me/model")
    km.save(timms, "hf://me/model", architecture="ConvFormerS18")
    held = hub.holds("me/model")
    # Of Keras' layout nothing is left that could be taken for the model.
    assert {"config.json", "model.safetensors"} <= set(held)
    assert not {WEIGHTS, "metadata.json"} & set(held)
    assert b"library_name: timm" in held["README.md"]
    assert b'create_model("hf-hub:me/model"' in held["README.md"]
    _assert_same(km.load("hf://me/model"), timms)
    loaded: Any = km.load("hf://me/model", name="mine")
    assert loaded.name == "mine"
    km.save(model, "hf://me/model")
    assert "model.safetensors" not in hub.holds("me/model")
    with pytest.raises(ValueError, match=r"says itself.*name"):
        km.load("hf://me/model", name="mine")


def test_files_in_repositories(hub, model, tmp_path):
    km.save(model, tmp_path / "mine.keras")
    content = (tmp_path / "mine.keras").read_bytes()
    hub.put("me/files", {"models/mine.keras": content})
    _assert_same(km.load("hf://me/files/models/mine.keras"), model)
    with pytest.raises(DownloadError) as caught:
        km.load("hf://me/files")
    assert "hf://me/files/model.keras" in "".join(caught.value.__notes__)
    hub.put("me/files", {"config.json": b'{"class_name": "Functional"}'})
    with pytest.raises(FileNotFoundError, match=r"model\.weights\.h5"):
        km.load("hf://me/files")
    hub.put("me/files", {"config.json": b'{"model_type": "bert"}'})
    with pytest.raises(ValueError, match="architecture"):
        km.load("hf://me/files")


def test_what_is_no_address(model):
    for text in (
        "hf://",
        "hf://me",
        "hf://me/",
        "hf://me/model@",
        "hf://me/model@a b",
        "hf://me/../model",
        "hf:///me/model",
    ):
        with pytest.raises(ValueError, match="Received"):
            km.load(text)
    with pytest.raises(ValueError, match=r"weights=PATH"):
        km.load("hf://me/model/model.safetensors")
    for text in (f"hf://me/model@{'0' * 40}", "hf://me/model/mine.keras"):
        with pytest.raises(ValueError, match="branch"):
            km.save(model, text)
    facts: list[dict[str, Any]] = [
        {"metrics": {"accuracy": "good"}},
        {"metrics": {"accuracy": float("nan")}},
        {"licence": ""},
        {"dataset": 3},
    ]
    for fact in facts:
        with pytest.raises(ValueError, match=f"Received: {next(iter(fact))}"):
            km.save(model, "hf://me/model", **fact)


def test_what_is_for_the_hub_alone(model, tmp_path):
    with pytest.raises(ValueError, match="licence, private"):
        km.save(model, tmp_path / "m.keras", licence="mit", private=True)
    assert list(tmp_path.iterdir()) == []


def test_addresses():
    for text in (
        "hf://me/model",
        "hf://me/my.model-2@v1.0",
        "hf://me/model@refs/pr/12",
        "hf://me/model@trial/folder/mine.keras",
    ):
        assert str(Address.parse(text)) == text
    assert Address.parse("hf://me/model@trial/folder/mine.keras") == Address(
        "me/model", "trial", "folder/mine.keras"
    )
    assert download.COMMIT.fullmatch("0" * 40)


class WithNotes(keras.layers.Layer):
    def call(self, inputs):
        return inputs

    def save_assets(self, inner_path):
        (Path(inner_path) / "notes.txt").write_text("dear")


def test_layers_with_files_of_their_own(hub):
    image = keras.Input((8, 8, 3))
    with_files = keras.Model(image, WithNotes()(image), name="with_notes")
    with pytest.raises(ValueError, match=r"\.keras file. Received: 'with_notes'"):
        km.save(with_files, "hf://me/model")
    assert hub.branches == {}
