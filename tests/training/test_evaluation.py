"""Counting what a classifier gets right."""

import json

import numpy as np
import pytest

from keras_metaformer.training.evaluation import Counter

pytestmark = pytest.mark.backend_independent
NAMES = tuple("abcdefgh")


@pytest.fixture
def answers():
    random = np.random.default_rng(0)
    logits = random.normal(size=(50, 8)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype("float32"), random.integers(0, 8, 50)


def _counted(probabilities, labels, batch=50, pad=0):
    counter = Counter(NAMES, worst=5)
    for start in range(0, len(labels), batch):
        rows = probabilities[start : start + batch]
        own = labels[start : start + batch]
        mask = np.ones(len(rows))
        if pad:
            rows = np.concatenate([rows, np.full((pad, 8), 0.125, "float32")])
            own = np.concatenate([own, np.zeros(pad, "int64")])
            mask = np.concatenate([mask, np.zeros(pad)])
        counter.add(rows, own, mask)
    return counter.result()


def test_counts_are_those_of_the_formulas(answers):
    probabilities, labels = answers
    found = _counted(probabilities, labels)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    assert found.images == 50
    assert found.top1 == np.sum(order[:, 0] == labels)
    assert found.top5 == np.sum(np.any(order[:, :5] == labels[:, None], axis=1))
    own = probabilities[np.arange(50), labels].astype("float64")
    assert found.loss == pytest.approx(-np.log(own).mean())
    matrix = found.confusion_matrix()
    assert matrix.sum() == 50 and np.trace(matrix) == found.top1
    np.testing.assert_array_equal(matrix.sum(axis=1), found.class_images)
    np.testing.assert_array_equal(np.diag(matrix), found.class_top1)

    confidence = probabilities.max(axis=1).astype("float64")
    right = order[:, 0] == labels
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            error += inside.mean() * gap
    assert found.calibration_error == pytest.approx(error, abs=1e-6)

    wrong = np.flatnonzero(~right)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:5]
    assert [mistake.index for mistake in found.mistakes] == worst.tolist()
    assert json.loads(json.dumps(found.to_dict()))["top1"] == found.top1


def test_batches_and_padding_change_nothing(answers):
    whole = _counted(*answers)
    parts = _counted(*answers, batch=7, pad=3)
    assert whole.to_dict() | {"loss": 0} == parts.to_dict() | {"loss": 0} | {
        "calibration_error": pytest.approx(whole.calibration_error)
    }
    assert whole.loss == pytest.approx(parts.loss)
    assert whole.mistakes == parts.mistakes


def test_of_equal_probabilities_the_first_class_is_the_answer():
    counter = Counter(NAMES)
    counter.add(np.full((8, 8), 0.125), np.arange(8))
    found = counter.result()
    assert (found.top1, found.top5) == (1, 5)


def test_what_cannot_be_counted_is_named():
    counter = Counter(NAMES)
    with pytest.raises(ValueError, match="at least one image"):
        counter.result()
    with pytest.raises(ValueError, match=r"shape=\(2, 7\)"):
        counter.add(np.zeros((2, 7)), np.zeros(2, "int64"))
    scores = np.full((3, 8), 0.125)
    scores[1, 2] = np.nan
    with pytest.raises(ValueError, match="image 1 "):
        counter.add(scores, np.zeros(3, "int64"))
