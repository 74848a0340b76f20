"""What a worker computes on the active backend, and what it says when it cannot."""

import io
import json
from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.benchmark import keras_calls, matrix_products
from keras_metaformer.benchmark.contender import Case, Contender, Job
from keras_metaformer.benchmark.worker import Worker, describe_error, peak_memory, serve
from tests.small_models import metaformer

BACKEND = keras.backend.backend()
COMPILER = {"tensorflow": ("xla",), "torch": (), "jax": ()}[BACKEND]


@pytest.fixture(autouse=True)
def _small_models(monkeypatch):
    """Small models in place of those asked for, and the policy set back."""
    before = keras.config.dtype_policy()

    def small(case):
        shape = (case.resolution, case.resolution, 3)
        return metaformer(
            ("separable_convolution", "self_attention"),
            input_shape=shape,
            widths=(32, 32),
            classes=1000,
            classifier_activation=None,
        )

    monkeypatch.setattr(keras_calls, "_our_model", small)
    yield
    keras.config.set_dtype_policy(before)


def _job(kind, *options, mode="inference", dtype="float32"):
    contender = Contender(kind, BACKEND, options)
    return Job(contender, Case("CAFormerS18", mode, 2, dtype, "cpu", 32), 0.0)


@pytest.mark.parametrize(
    "job",
    [
        _job("stock"),
        _job("ours", "folded", *COMPILER, dtype="bfloat16"),
        _job("roof"),
        _job("roof", mode="training", dtype="mixed_bfloat16"),
    ],
    ids=lambda job: f"{job.contender.name}-{job.case.mode}-{job.case.dtype}",
)
def test_turns(job):
    worker = Worker(job)
    ready, turn, end = worker.ready(), worker.turn(), worker.finish()
    assert ready["versions"]["keras"] == keras.__version__
    assert ready["calls"] == 1
    assert ready["build_s"] > 0
    assert turn["seconds"] > 0
    assert turn["processor_seconds"] >= 0
    assert end["peak_device_memory"] is None
    assert end["peak_memory"] == peak_memory()


def test_training_changes_the_weights(monkeypatch):
    models: Any = []
    stock_model = keras_calls.stock_model

    def kept(model):
        models.append(stock_model(model))
        return models[0]

    monkeypatch.setattr(keras_calls, "stock_model", kept)
    job = _job("stock", mode="training")
    call, *_ = keras_calls.make(job)
    before = [to_numpy(weight) for weight in models[0].trainable_weights]
    call()
    for weight, value in zip(models[0].trainable_weights, before, strict=True):
        assert not np.array_equal(to_numpy(weight), value), weight.path


def test_calls_fill_the_time_asked_for():
    job = _job("roof")
    worker = Worker(Job(job.contender, job.case, minimum_seconds=0.05))
    assert worker.calls > 1


def test_products_have_the_right_results():
    """Each backend multiplies matrices of the shapes that it was given."""
    products = [
        matrix_products.MatrixProduct(1, 4, 3, 5),
        matrix_products.MatrixProduct(2, 4, 3, 5, True),
    ]
    matrix_products.products_call(products, BACKEND, "float32", "cpu")()
    assert [each.macs for each in products] == [60, 120]
    forward_and_back = matrix_products.with_gradients(products)
    # The first one's input is the image, which needs no gradient.
    assert [each.macs for each in forward_and_back] == [60, 120, 120, 120, 60]
    assert [(each.rows, each.inner, each.columns) for each in forward_and_back[2:]] == [
        (4, 5, 3),
        (3, 4, 5),
        (3, 4, 5),
    ]


def test_no_gpu():
    case = Case("CAFormerS18", "inference", 2, "float32", "gpu", 32)
    if _has_gpu():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="sees no GPU"):
        keras_calls.make(Job(Contender("ours", BACKEND), case))


def _has_gpu():
    if BACKEND == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import torch

    return torch.cuda.is_available()


def _serve(*requests):
    lines = [json.dumps(request) + "\n" for request in requests]
    answers = io.StringIO()
    serve(lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_an_error_is_an_answer(monkeypatch):
    def lost(job):
        raise MemoryError("no more")

    monkeypatch.setattr(keras_calls, "make", lost)
    job = {
        "contender": {"kind": "ours", "backend": BACKEND, "options": []},
        "case": {
            "model": "CAFormerS18",
            "mode": "inference",
            "batch": 1,
            "dtype": "float32",
            "device": "cpu",
            "resolution": 32,
        },
        "minimum_seconds": 0.0,
    }
    (answer,) = _serve(job, "turn")
    assert answer == {
        "error": {"status": "out of memory", "message": "MemoryError: no more"}
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("[enforce fail] can't allocate memory"), "out of memory"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory"),
        (ValueError("OOM when allocating tensor"), "out of memory"),
        (ValueError("no room in the table"), "failed"),
    ],
)
def test_kinds_of_errors(error, status):
    assert describe_error(error)["status"] == status


def test_a_message_is_one_short_line():
    message = describe_error(
        ValueError("\x1b[1mlost\x1b[0m\n\n here " + "and so on " * 99)
    )
    assert message["message"].startswith("ValueError: lost here and so on")
    assert message["message"].endswith("[...]")
    assert len(message["message"]) <= 300
