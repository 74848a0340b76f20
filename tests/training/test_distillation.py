"""Distillation against its formulas, in model.fit and in the student's file."""

import zipfile
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.training.distillation import gives_probabilities
from tests.training.fitting import CLASSES, SILENT, batches, small_model


def _softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _expected(student, teacher, targets, hard, alpha, temperature):
    """The loss, of logits."""
    base = -(targets * np.log(_softmax(student))).sum(-1)
    if hard:
        best = np.eye(CLASSES)[teacher.argmax(-1)]
        taught = -(best * np.log(_softmax(student))).sum(-1)
    else:
        p, q = _softmax(student / temperature), _softmax(teacher / temperature)
        taught = temperature**2 * (q * (np.log(q) - np.log(p))).sum(-1)
    return ((1 - alpha) * base + alpha * taught).mean()


def _pair(activations):
    keras.utils.set_random_seed(11)
    student = small_model(activation=activations[0])
    keras.utils.set_random_seed(12)
    teacher = small_model(batch_norm=True, activation=activations[1])
    return student, teacher


def _logits(model, images):
    outputs = model.predict(images, verbose=SILENT)
    return np.log(outputs) if gives_probabilities(model) else outputs


@pytest.mark.parametrize(
    ("hard", "alpha", "temperature", "activations"),
    [
        (True, 0.5, 1.0, (None, "softmax")),
        (False, 0.7, 3.0, ("softmax", None)),
    ],
)
def test_in_fit_the_loss_is_that_of_the_formula(hard, alpha, temperature, activations):
    student, teacher = _pair(activations)
    images, targets = batches(1)
    expected = _expected(
        _logits(student, images),
        _logits(teacher, images),
        targets,
        hard,
        alpha,
        temperature,
    )
    statistics = teacher.get_weights()
    before = student.get_weights()
    distiller = km.training.Distiller(student, teacher, hard, alpha, temperature)
    recipe = km.training.load_recipe("finetune")
    distiller.compile(
        km.training.AdamW(1e-2),
        km.training.build_loss(recipe, student),
        metrics=["accuracy"],
    )
    history = distiller.fit(images, targets, batch_size=8, verbose=SILENT).history
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert "accuracy" in history
    for got, wanted in zip(teacher.get_weights(), statistics, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(student.get_weights(), before, strict=True)
    )
    # Evaluated, it is the student's own loss.
    plain = distiller.evaluate(images, targets, verbose=SILENT, return_dict=True)
    own = -(targets * np.log(_softmax(_logits(student, images)))).sum(-1).mean()
    assert plain["loss"] == pytest.approx(own, rel=1e-5)


def test_the_saved_student_knows_nothing_of_the_teacher(tmp_path):
    student, teacher = _pair(("softmax", "softmax"))
    distiller = km.training.Distiller(student, teacher)
    distiller.compile(km.training.LAMB(1e-2), "categorical_crossentropy")
    assert len(distiller.trainable_variables) == len(student.trainable_variables)
    images, targets = batches(2)
    average = km.training.WeightAverage(student, 0.5)
    distiller.fit(
        images,
        targets,
        batch_size=8,
        verbose=SILENT,
        callbacks=[km.training.AverageWeights(average)],
    )
    student.save(tmp_path / "student.keras")
    again: Any = keras.saving.load_model(tmp_path / "student.keras")
    assert again.count_params() == student.count_params()
    np.testing.assert_allclose(
        again.predict(images, verbose=SILENT),
        student.predict(images, verbose=SILENT),
        atol=1e-6,
    )
    with zipfile.ZipFile(tmp_path / "student.keras") as file:
        config = file.read("config.json").decode()
    assert "Distiller" not in config
    assert "BatchNormalization" not in config  # which the teacher has
    with average.applied():
        averaged = student.predict(images, verbose=SILENT)
    assert not np.array_equal(averaged, student.predict(images, verbose=SILENT))


def test_a_recipe_with_a_teacher_is_wrapped():
    student, teacher = _pair((None, None))
    plain = km.training.load_recipe("ffnet-1")
    taught = km.training.load_recipe("ffnet-1-distilled")
    assert km.training.wrap_for_training(plain, student) is student
    distiller = km.training.wrap_for_training(taught, student, teacher)
    assert isinstance(distiller, km.training.Distiller)
    assert (distiller.hard, distiller.alpha) == (True, 0.5)
    with pytest.raises(ValueError, match=r"published one is RegNetY-160.*teacher=None"):
        km.training.wrap_for_training(taught, student)
    with pytest.raises(ValueError, match="'hard' or 'soft' for a teacher"):
        km.training.wrap_for_training(plain, student, teacher)


@pytest.mark.one_backend
def test_models_that_do_not_fit_are_errors():
    student, teacher = _pair((None, None))
    other = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="a student of 3, a teacher of 192"):
        km.training.Distiller(student, other)
    with pytest.raises(ValueError, match=r"`alpha` must lie in.*alpha=1.5"):
        km.training.Distiller(student, teacher, alpha=1.5)
    with pytest.raises(ValueError, match=r"`temperature`.*temperature=0"):
        km.training.Distiller(student, teacher, temperature=0)


@pytest.mark.one_backend
def test_what_a_model_gives_is_seen_from_its_last_layer():
    image = keras.Input((8, 8, 3))
    probabilities = small_model(activation="softmax")
    logits = small_model(activation=None)
    assert gives_probabilities(probabilities)
    assert not gives_probabilities(logits)
    assert gives_probabilities(keras.Model(image, probabilities(image)))
    assert gives_probabilities(
        keras.Sequential([image, logits, keras.layers.Softmax()])
    )
    assert not gives_probabilities(keras.Sequential([image, logits]))
