"""A model knows its images: constructors, files, clones, folding, export."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import keras_metaformer as km
from keras_metaformer.data import (
    Augmentation,
    EvaluationBatches,
    EvaluationTransform,
    ImageDescription,
    TrainingBatches,
    class_names,
    open_source,
)
from keras_metaformer.models.pyramid_model import described, description_of
from keras_metaformer_lite.cli import app

NAMES = ("ant", "bee", "cow")


def _model(**options):
    return km.MetaFormer([1, 1], [8, 16], input_shape=(32, 32, 3), classes=3, **options)


def _trained(**options):
    """A model with class names and a transform of its own, as training leaves it."""
    model = _model(**options)
    description = model.image_description
    assert description is not None
    model.image_description = dataclasses.replace(
        description,
        class_names=NAMES,
        transform=EvaluationTransform(
            32, 0.8, "bilinear", mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)
        ),
    )
    # A spread-out head, so that the classes do not tie.
    head = model.get_layer("predictions")
    head.kernel.assign(np.random.default_rng(0).normal(size=head.kernel.shape))
    return model


@pytest.fixture
def photographs(tmp_path):
    """A class folder for each name, of photographs of several shapes."""
    random = np.random.default_rng(1)
    for number, name in enumerate(NAMES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(2):
            size = (40 + 13 * number, 60 - 9 * index, 3)
            pixels = random.integers(0, 256, size).astype("uint8")
            path = tmp_path / "photos" / name / f"{index}.png"
            Image.fromarray(pixels).resize((70, 50)).save(path)
    return tmp_path / "photos"


@pytest.mark.one_backend
def test_constructors_describe_their_images():
    model = km.PoolFormerS12(weights=None, classes=5)
    assert model.image_description == ImageDescription(
        km.transforms_for("PoolFormerS12")
    )
    logits = km.PoolFormerS12(
        weights=None,
        input_shape=(64, 64, 3),
        classifier_activation=None,
        include_preprocessing=True,
    ).image_description
    assert logits is not None
    assert logits.transform.resolution == 64
    assert logits.transform.crop_fraction == 0.9
    assert (logits.output, logits.includes_preprocessing) == ("logits", True)
    features = km.PoolFormerS12(weights=None, include_top=False).image_description
    assert features is not None
    assert (features.output, features.transform.resolution) == ("features", 224)


@pytest.mark.one_backend
def test_models_of_other_inputs_are_not_described():
    inputs = keras.Input((32, 32, 3))
    halved = keras.layers.Rescaling(0.5)(inputs)
    assert _model().image_description is not None
    assert km.MetaFormer([1], [8], input_tensor=halved).image_description is None
    own = km.MetaFormer([1], [8], input_tensor=inputs)
    assert description_of(own) is not None
    for shape in ((32, 64, 3), (32, 32, 1)):
        assert km.MetaFormer([1], [8], input_shape=shape).image_description is None


@pytest.mark.one_backend
def test_published_weights_name_their_classes(monkeypatch, tmp_path):
    from keras_metaformer.weights import loading

    path = tmp_path / "weights.weights.h5"
    made = km.PoolFormerS12(weights=None, input_shape=(32, 32, 3))
    made.save_weights(path)
    monkeypatch.setattr(loading.cache, "ensure_source", lambda *_: path)
    model = km.PoolFormerS12(input_shape=(32, 32, 3))
    description = model.image_description
    assert description is not None
    assert description.class_names == "imagenet"
    names = description.names()
    assert names is not None
    assert names[281] == "tabby"
    with pytest.warns(UserWarning, match="except the last layer"):
        other = km.PoolFormerS12(input_shape=(32, 32, 3), classes=3)
    assert other.image_description is not None
    assert other.image_description.class_names is None


def test_files_clones_and_folding_keep_it(tmp_path):
    model = _trained()
    model.compile("sgd", "categorical_crossentropy")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    copies: list = [loaded, keras.models.clone_model(model), km.fold(loaded)]
    for copy in copies:
        assert copy.image_description == model.image_description
    again = type(model).from_config(model.get_config())
    assert again.image_description == model.image_description
    # A cut of the model is another one.
    cut = type(model)(model.input, model.get_layer("stage_0").output)
    assert cut.image_description is None


@pytest.mark.one_backend
def test_a_model_of_another_package(tmp_path):
    inputs = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3)(pooled), name="mine")
    description = ImageDescription(EvaluationTransform(32), output="logits")
    assert description_of(model) is None
    known = described(model, description)
    image = np.ones((1, 32, 32, 3), "float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(known(image)),
        keras.ops.convert_to_numpy(model(image)),
    )
    known.save(tmp_path / "mine.keras")
    assert (
        description_of(keras.saving.load_model(tmp_path / "mine.keras")) == description
    )
    with pytest.raises(TypeError, match="Only a functional model"):

        class Own(keras.Model):
            pass

        described(Own(), description)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("description", "message"),
    [
        (ImageDescription(EvaluationTransform(64)), r"images \(64, 64, 3\)"),
        (
            ImageDescription(EvaluationTransform(32), class_names=("a", "b")),
            "names 2 classes",
        ),
        ("imagenet", "must be an ImageDescription"),
    ],
)
def test_a_description_must_fit_the_model(description, message):
    model = _model()
    with pytest.raises(ValueError, match=message + ".*Received: "):
        model.image_description = description
    model.image_description = None
    assert "image_description" not in model.get_config()


@pytest.mark.backend_independent
def test_config_of_a_description():
    description = ImageDescription(
        EvaluationTransform(64, 0.9, "bilinear", squash=True),
        output="logits",
        class_names=["x", "y"],  # type: ignore[arg-type]
    )
    config = json.loads(json.dumps(description.get_config()))
    assert ImageDescription.from_config(config) == description
    # ImageNet's lists are kept by their names.
    for position in (0, 1):
        names = tuple(pair[position] for pair in class_names("imagenet21k"))
        known = ImageDescription(EvaluationTransform(64), class_names=names)
        assert known.class_names == "imagenet21k"
        assert len(json.dumps(known.get_config())) < 400
    with pytest.raises(ValueError, match=r"config of an ImageDescription.*Received"):
        ImageDescription.from_config({"transform": {"side": 3}})
    for fields in ({"output": "text"}, {"class_names": "cifar"}, {"class_names": (1,)}):
        with pytest.raises(ValueError, match="Received: "):
            ImageDescription(EvaluationTransform(64), **fields)


def test_probabilities_of_logits():
    description = ImageDescription(EvaluationTransform(8), output="logits")
    outputs = np.array([[1.0, 2.0, 1001.0], [0.0, 0.0, 0.0]], "float32")
    expected = [[0, 0, 1], [1 / 3] * 3]
    np.testing.assert_allclose(description.probabilities(outputs), expected, rtol=1e-6)
    same = dataclasses.replace(description, output="probabilities")
    assert np.array_equal(same.probabilities(outputs), outputs)


@pytest.mark.one_backend
@pytest.mark.parametrize("preprocessing", [False, True])
def test_every_command_sees_the_same_tensor(preprocessing, photographs, tmp_path):
    """Training, evaluation, classify, export and LiteRTModel, from the file alone."""
    model = _trained(
        include_preprocessing=preprocessing, classifier_activation="softmax"
    )
    path = tmp_path / "mine.keras"
    model.save(path)
    description = description_of(model)
    assert description is not None
    source = open_source(photographs)
    order = TrainingBatches(source, description, Augmentation.none(), 6, workers=0)
    ((trained, _),) = order.epoch(0)
    ((evaluated, labels, mask),) = EvaluationBatches(source, description, 6, 0)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert mask.all()
    assert np.array_equal(trained, evaluated[order.indices(0, 0)])
    expected = model.predict_on_batch(evaluated)

    run = CliRunner().invoke
    result = run(
        app, ["classify", f"{photographs}/*/*.png", "--model", str(path), "--json"]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    for row, scores in zip(rows, expected, strict=True):
        found = {entry["name"]: entry["probability"] for entry in row["classes"]}
        assert list(found) == [NAMES[i] for i in np.argsort(-scores)]
        np.testing.assert_allclose([found[name] for name in NAMES], scores, rtol=1e-4)

    exported = tmp_path / "mine.tflite"
    result = run(app, ["export", "--model", str(path), "--output", str(exported)])
    assert result.exit_code == 0, result.output
    runner = km.export.LiteRTModel(exported)
    assert runner.labels == list(NAMES)
    own = runner.image_description
    assert own is not None
    seen = [runner._prepared(source.name(index)) for index in range(6)]
    pixels = [
        description.transform(source.load(index), normalise=False) for index in range(6)
    ]
    assert np.array_equal(seen, pixels)
    assert np.array_equal([own.prepare(source.name(i)) for i in range(6)], pixels)
    if preprocessing:
        assert np.array_equal(pixels, evaluated)
    else:
        normalised = description.transform.normalised(np.stack(pixels))
        assert np.array_equal(normalised, evaluated)
    outputs = runner.predict([source.name(index) for index in range(6)])
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@pytest.mark.one_backend
def test_a_file_that_does_not_know_its_images(photographs, tmp_path):
    model = _model()
    model.image_description = None
    model.save(tmp_path / "old.keras")
    (tmp_path / "text.keras").write_text("hello")
    for name, code, message in (
        ("old.keras", 3, "does not say how its images are prepared"),
        ("text.keras", 3, "cannot be loaded"),
        ("none.keras", 2, "There is no such file"),
    ):
        path = str(tmp_path / name)
        for arguments in (
            ["classify", f"{photographs}/*/*.png", "--model", path],
            ["export", "--model", path, "--output", str(tmp_path / "x.tflite")],
        ):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == code, result.output
            assert message in result.output
    result = CliRunner().invoke(
        app,
        [
            *("classify", f"{photographs}/*/*.png", "--weights", "imagenet"),
            *("--model", str(tmp_path / "old.keras")),
        ],
    )
    assert result.exit_code == 2
    assert "old.keras is a whole model, so it goes without --weights" in result.output
