"""The forms in which one model can be run, each timed in a process of its own."""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_metaformer_lite.benchmark.turns import WorkerProcess, worker_command

#: The folder that the package stands in.
_PARENT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to run a model.

    Attributes:
        backend: that KERAS_BACKEND names in its process.
        extra: of the package, with all that it needs.
        needs: modules that have to be installed.
        how: what a user does to have it.
    """

    backend: str
    extra: str
    needs: tuple[str, ...]
    how: str


def _keras_forms() -> dict[str, Form]:
    forms = {}
    for backend in ("tensorflow", "jax", "torch"):
        choice = f"KERAS_BACKEND={backend}"
        compiled = {"torch": "model.compile(jit_compile=True), "}.get(backend, "")
        forms |= {
            f"{backend}-eager": Form(
                backend,
                backend,
                (backend,),
                f"{choice}, model.compile(run_eagerly=True), model.predict",
            ),
            f"{backend}-compiled": Form(
                backend, backend, (backend,), f"{choice}, {compiled}model.predict"
            ),
        }
    return forms


FORMS = {
    **_keras_forms(),
    "litert": Form(
        "tensorflow",
        "export",
        ("tensorflow", "ai_edge_litert"),
        "keras-metaformer export, km.export.LiteRTModel",
    ),
    "onnxruntime": Form(
        "tensorflow",
        "onnx",
        ("tensorflow", "tf2onnx", "onnx", "onnxruntime"),
        "km.export.to_onnx, onnxruntime",
    ),
    "openvino": Form(
        "tensorflow",
        "tensorflow,openvino",
        ("tensorflow", "openvino"),
        "km.export.to_openvino, openvino.compile_model",
    ),
    "saved-model": Form(
        "tensorflow",
        "tensorflow",
        ("tensorflow",),
        "km.export.to_saved_model, tf.saved_model.load",
    ),
    "pt2": Form(
        "torch",
        "torch",
        ("torch",),
        "km.export.to_pt2, torch.export.load(...).module()",
    ),
    "stablehlo": Form(
        "jax", "jax", ("jax",), "km.export.to_stablehlo, jax.export.deserialize"
    ),
}


def missing_modules(form: str) -> list[str]:
    """What a form needs and is not installed."""
    return [name for name in FORMS[form].needs if not importlib.util.find_spec(name)]


@dataclasses.dataclass(frozen=True)
class Job:
    """A form of a model, as its worker gets it (as JSON).

    Attributes:
        form: a key of `FORMS`.
        model: a constructor's name, or the path of a `.keras` file.
        batch: int. Images of one call.
        threads: int. Threads of the CPU, or None for as many as the library takes (on
            LiteRT one per core).
        resolution: int. Height and width of the images in pixels, or None for the
            model's own.
        fold: bool. Whether Keras runs the folded model, as the exported files are.
        minimum_seconds: float. A turn repeats its call until about this time is over.
    """

    form: str
    model: str
    batch: int
    threads: int | None = None
    resolution: int | None = None
    fold: bool = False
    minimum_seconds: float = 0.2

    @property
    def label(self) -> str:
        """The form, with the threads where they are given."""
        return self.form + (f", {self.threads} threads" if self.threads else "")


def start_worker(timeout: float) -> Callable[[Job], WorkerProcess]:
    """What starts the worker of a job; its answers may take `timeout` seconds."""

    def start(job: Job) -> WorkerProcess:
        environment = {
            **os.environ,
            "KERAS_BACKEND": FORMS[job.form].backend,
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
            # Several processes may share a GPU: none takes all of its memory.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }
        if job.threads:
            # JAX has no other way; the others are told in `make`.
            environment["NPROC"] = str(job.threads)
        command = worker_command("keras_metaformer_lite.benchmark.forms", _PARENT)
        return WorkerProcess(command, environment, timeout)

    return start


def make(request: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], dict]]:
    """The call that a worker times: a batch of images, from NumPy to NumPy."""
    import numpy as np

    job = Job(**request)
    _set_threads(job)
    model = _model(job)
    shape = (job.batch, *model.input_shape[1:])
    images = np.random.default_rng(0).normal(size=shape).astype("float32")
    predict = _EXPORTED.get(job.form, _keras)
    return predict(model, images, job), lambda: {"resolution": shape[1]}


def _set_threads(job: Job) -> None:
    if not job.threads:
        return
    if FORMS[job.form].backend == "torch":
        import torch

        torch.set_num_threads(job.threads)
    elif job.form.startswith(("tensorflow", "saved-model")):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)


def _model(job: Job) -> Any:
    import keras

    import keras_metaformer as km

    if job.model.endswith(".keras"):
        model: Any = keras.saving.load_model(job.model, compile=False)
        size = job.resolution
        if None in model.input_shape[1:] and size:
            inputs = keras.Input((size, size, model.input_shape[-1]))
            model = keras.Model(inputs, model(inputs), name=model.name)
    else:
        size = job.resolution
        shape = None if size is None else (size, size, 3)
        # Random weights take as long as any.
        model = getattr(km, job.model)(weights=None, input_shape=shape)
    if None in model.input_shape[1:]:
        raise ValueError(
            "A model that takes images of any size needs a resolution. "
            f"Received: input_shape={model.input_shape}"
        )
    return km.fold(model) if job.fold else model


def _keras(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    compiled = job.form.endswith("-compiled")
    # "auto", `compile`'s default, compiles on the other two.
    jit_compile = True if job.form == "torch-compiled" else "auto"
    model.compile(run_eagerly=not compiled, jit_compile=jit_compile)
    return lambda: model.predict_on_batch(images)


def _litert(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    from keras_metaformer.export import LiteRTModel, to_litert

    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        path = Path(folder) / "model.tflite"
        to_litert(
            model,
            path,
            images=images[:1],
            allow_inexact=True,  # as random weights may be
            check_gpu=False,
            latency_runs=1,
            verbose=False,
        )
        runner = LiteRTModel(path, num_threads=job.threads or os.cpu_count() or 1)
    return lambda: runner.predict(images)


def _onnxruntime(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    import onnxruntime

    from keras_metaformer.export.other_formats import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads or 0  # 0: one per core
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        path = to_onnx(model, Path(folder) / "model.onnx")
        session = onnxruntime.InferenceSession(
            path, options, providers=onnxruntime.get_available_providers()
        )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: images})


def _openvino(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    import openvino

    from keras_metaformer.export.other_formats import to_openvino

    # In float32 as the others: by itself it takes bfloat16 where the processor has it.
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if job.threads:
        options["INFERENCE_NUM_THREADS"] = job.threads
    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        path = to_openvino(model, Path(folder) / "model.xml")
        program = openvino.compile_model(path, "CPU", options)
    return lambda: program(images)[0]


def _saved_model(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    import tensorflow as tf

    from keras_metaformer.export.other_formats import to_saved_model

    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        path = to_saved_model(model, Path(folder) / "model")
        loaded: Any = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    ((name, _),) = serve.structured_input_signature[1].items()

    def call() -> Any:
        (output,) = serve(**{name: tf.constant(images)}).values()
        return output.numpy(), loaded  # which holds the weights

    return call


def _pt2(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    import torch

    from keras_metaformer.export.other_formats import to_pt2

    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        path = to_pt2(model, Path(folder) / "model.pt2")
        program = torch.export.load(path).module()

    def call() -> Any:
        with torch.inference_mode():
            return program(torch.from_numpy(images)).numpy()

    return call


def _stablehlo(model: Any, images: Any, job: Job) -> Callable[[], Any]:
    import jax
    import numpy as np
    from jax import export

    from keras_metaformer.export.other_formats import to_stablehlo

    with tempfile.TemporaryDirectory(prefix="keras-metaformer-") as folder:
        path = to_stablehlo(model, Path(folder) / "model.stablehlo")
        program = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda: np.asarray(program(images))


_EXPORTED = {
    "litert": _litert,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "saved-model": _saved_model,
    "pt2": _pt2,
    "stablehlo": _stablehlo,
}
