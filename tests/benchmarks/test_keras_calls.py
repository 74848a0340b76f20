"""What contenders compute on the active backend."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from benchmarks import keras_calls, matrix_products, stock
from benchmarks.contender import Case, Contender, Job
from keras_metaformer.arrays import to_numpy
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
    job = Job(contender, Case("CAFormerS18", mode, 2, dtype, "cpu", 32), 0.0)
    return dataclasses.asdict(job)


@pytest.mark.parametrize(
    "job",
    [
        _job("stock"),
        _job("ours", "folded", *COMPILER, dtype="bfloat16"),
        _job("roofline"),
        _job("roofline", mode="training", dtype="mixed_bfloat16"),
    ],
    ids=["stock", "ours", "roofline", "roofline-training"],
)
def test_calls(job):
    call, about = keras_calls.make(job)
    call()
    assert about() == {
        "package": str(Path(km.__file__).parent),
        "peak_device_memory": None,
        "device_name": None,
    }


def test_training_changes_the_weights(monkeypatch):
    models: Any = []
    stock_model = stock.stock_model

    def kept(model):
        models.append(stock_model(model))
        return models[0]

    monkeypatch.setattr(stock, "stock_model", kept)
    job = _job("stock", mode="training")
    call, *_ = keras_calls.make(job)
    before = [to_numpy(weight) for weight in models[0].trainable_weights]
    call()
    for weight, value in zip(models[0].trainable_weights, before, strict=True):
        assert not np.array_equal(to_numpy(weight), value), weight.path


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
    job = _job("ours")
    job["case"]["device"] = "gpu"
    if _has_gpu():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match="sees no GPU"):
        keras_calls.make(job)


def _has_gpu():
    if BACKEND == "jax":
        import jax

        return jax.default_backend() != "cpu"
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import torch

    return torch.cuda.is_available()
