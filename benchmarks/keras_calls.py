"""Keras models and matrix products, on the backend that KERAS_BACKEND names.

Our models are made by public names alone, so that other revisions of the package run
here too (`compare_revisions.py`); what knows the inside of this one is imported where
it is used.
"""

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_metaformer as km
from benchmarks.contender import DTYPES, Case, Job
from benchmarks.timm_calls import torch_device, torch_memory_and_name

#: Which of several copies was found.
_PACKAGE = str(Path(km.__file__).parent)


def make(request: dict) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """The call, and what gives its peak of device memory and the device's name.

    The latter also gives the folder of the package that was measured.

    Args:
        request: a `Job`.

    Raises:
        RuntimeError: if the backend has no device of the kind asked for.
        TypeError: if the model has a layer without a stock form, for `stock` and
            `roofline`.
    """
    job = Job.from_dict(request)
    case, contender = job.case, job.contender
    about = _memory_and_name(case.device)
    _keep_freed_memory()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(case.dtype)
    if contender.kind == "roofline":
        from benchmarks.matrix_products import (
            matrix_products,
            products_call,
            with_gradients,
        )
        from benchmarks.stock import stock_model

        # Only the shapes are wanted: no backend computes anything here.
        products = matrix_products(stock_model(_our_model(case)), case.batch)
        if case.mode == "training":
            products = with_gradients(products)
        compute = DTYPES[case.dtype]
        call = products_call(products, contender.backend, compute, case.device)
        return call, lambda: about() | {"package": _PACKAGE}
    # No device scope: the parent has hidden the devices that are not meant.
    model = _model(job)
    make_call_of = _training_call if case.mode == "training" else _inference_call
    return make_call_of(model, job), lambda: about() | {"package": _PACKAGE}


def _keep_freed_memory() -> None:
    """What programs call whose main work is inference.

    Revisions that have no such function did it when they were imported.
    """
    with contextlib.suppress(ImportError):
        fast_paths = importlib.import_module("keras_metaformer.layers.fast_paths")
        getattr(fast_paths, "keep_freed_memory", lambda: None)()


def _our_model(case: Case) -> keras.Model:
    shape = (case.resolution, case.resolution, 3)
    return getattr(km, case.model)(
        weights=None, input_shape=shape, classifier_activation=None
    )


def _model(job: Job) -> keras.Model:
    kind = job.contender.kind
    if kind == "convnext":
        size = job.case.resolution
        # Keras annotates both Nones as strings.
        nothing: Any = {"weights": None, "classifier_activation": None}
        return keras.applications.ConvNeXtTiny(
            input_shape=(size, size, 3), include_preprocessing=False, **nothing
        )
    model = _our_model(job.case)
    if kind == "stock":
        from benchmarks.stock import stock_model

        return stock_model(model)
    return km.fold(model) if "folded" in job.contender.options else model


def _images(case: Case) -> Any:
    """Normal noise on the device: float32, which Keras models take in every policy."""
    shape = (case.batch, case.resolution, case.resolution, 3)
    noise = np.random.default_rng(0).normal(size=shape)
    return keras.ops.convert_to_tensor(noise, "float32")


def _inference_call(model: keras.Model, job: Job) -> Callable[[], None]:
    """A call compiled as `model.predict` compiles it, without its loop over data."""
    images = _images(job.case)
    make = {
        "tensorflow": _tensorflow_inference,
        "jax": _jax_inference,
        "torch": _torch_inference,
    }
    return make[job.contender.backend](model, images, job.contender.options)


def _tensorflow_inference(
    model: Any, images: Any, options: tuple[str, ...]
) -> Callable[[], None]:
    import tensorflow as tf

    @tf.function(jit_compile="xla" in options or model.jit_compile)
    def predict(images):
        return model(images, training=False)

    def call() -> None:
        predict(images).numpy()

    return call


def _jax_inference(
    model: Any, images: Any, options: tuple[str, ...]
) -> Callable[[], None]:
    import jax

    # Arguments, not constants of the compiled program.
    trainable = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def predict(trainable, others, images):
        return model.stateless_call(trainable, others, images, training=False)[0]

    def call() -> None:
        predict(trainable, others, images).block_until_ready()

    return call


def _torch_inference(
    model: Any, images: Any, options: tuple[str, ...]
) -> Callable[[], None]:
    import torch

    def predict(images):
        return model(images, training=False)

    compiled = "compile" in options or model.jit_compile
    forward: Any = torch.compile(predict) if compiled else predict
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None

    def call() -> None:
        with torch.inference_mode():
            forward(images)
        wait()

    return call


def _training_call(model: keras.Model, job: Job) -> Callable[[], None]:
    """One step as `model.fit` makes it; it returns the loss, so it has to wait."""
    jit_compile: Any = {}  # as the model has it
    if {"xla", "compile"} & set(job.contender.options):
        jit_compile["jit_compile"] = True
    model.compile(
        optimizer=keras.optimizers.AdamW(1e-4),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **jit_compile,
    )
    images = _images(job.case)
    labels = keras.ops.convert_to_tensor(np.arange(job.case.batch) % 1000, "int32")

    def call() -> None:
        model.train_on_batch(images, labels)

    return call


def _memory_and_name(device: str) -> Callable[[], dict[str, Any]]:
    """What gives the peak of the device's memory and its name, None on a CPU.

    Raises:
        RuntimeError: if the backend sees no GPU and one is asked for.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        where = torch_device(device)
        return lambda: torch_memory_and_name(where)
    if device == "cpu":
        return lambda: {"peak_device_memory": None, "device_name": None}
    if backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        if devices:
            details = tf.config.experimental.get_device_details(devices[0])
            return lambda: {
                "peak_device_memory": tf.config.experimental.get_memory_info("GPU:0")[
                    "peak"
                ],
                "device_name": details.get("device_name"),
            }
    elif backend == "jax":
        import jax

        gpus = [each for each in jax.devices() if each.platform in ("gpu", "cuda")]
        if gpus:
            return lambda: {
                "peak_device_memory": (gpus[0].memory_stats() or {}).get(
                    "peak_bytes_in_use"
                ),
                "device_name": gpus[0].device_kind,
            }
    raise RuntimeError(f"{backend} sees no GPU. Received: device='gpu'")
