"""A small run in one or several processes, which says all that it has done.

`main` is what one process does, of what `km.train` is given. It prints a line of JSON:
losses by step, the images that were read, the log, the evaluation.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_metaformer_lite.data.sources import Source
from keras_metaformer_lite.processes import python_command

SECONDS = 1500
_PROGRAM = """
import json, sys
from tests.training import without_tensorflow
without_tensorflow.hide()
from tests.training import several_processes
several_processes.main(json.loads(sys.argv[1]))
"""
#: A recipe for so little data, and a model in which nothing is drawn at random.
OVERRIDES = {
    "epochs": 2,
    "batch_size": 8,
    "accumulate": 1,
    "learning_rate": 3e-3,
    "layer_decay": "none",
    "warmup_epochs": 0,
    "rand_augment": "none",
    "mixup_alpha": 0.2,
    "average_decay": 0.7,
}


class Noted(Source):
    """A source that notes which of its images are read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.class_names, self.labels = source.class_names, source.labels
        self.read: list[int] = []

    def name(self, index: int) -> str:
        return self._source.name(index)

    def content(self, index: int) -> bytes:
        return self._source.content(index)

    def load(self, index: int) -> Any:
        self.read.append(int(index))
        return self._source.load(index)


def write_data(folder: Path, classes: int = 3, each: int = 16) -> None:
    """`train`, `val` and `small.keras`."""
    from keras_metaformer.models.pyramid_model import described
    from keras_metaformer_lite.description import ImageDescription
    from keras_metaformer_lite.images import EvaluationTransform
    from tests.training.photographs import SIZE, write_digits

    write_digits(folder, classes, each)
    description = ImageDescription(EvaluationTransform(SIZE), True)
    described(small_hybrid(classes), description).save(folder / "small.keras")


def small_hybrid(classes: int = 3) -> Any:
    """Of CAFormer's kind, with batch norms, and nothing that is drawn at random."""
    import keras

    import keras_metaformer as km
    from tests.training.photographs import SIZE

    keras.utils.set_random_seed(1)
    return km.MetaFormer(
        depths=(1, 1),
        widths=(8, 32),
        mixer=("separable_convolution", "self_attention"),
        norm="batch_norm",
        stem_kernel_size=3,
        stem_strides=2,
        stem_padding=1,
        input_shape=(SIZE, SIZE, 3),
        classes=classes,
        include_preprocessing=True,
    )


def environments(
    backend: str, processes: int, devices: int | None = None
) -> list[dict[str, str]]:
    """What a launcher tells each of several processes on this machine.

    Args:
        backend: of Keras.
        processes: int.
        devices: that JAX is to make of the CPU.
    """
    common = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    if devices is not None:
        common["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    if processes == 1:
        return [common]
    ports = [_free_port() for _ in range(processes)]
    found = []
    for process in range(processes):
        if backend == "torch":
            own = {
                "RANK": str(process),
                "LOCAL_RANK": str(process),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(ports[0]),
            }
        elif backend == "jax":
            own = {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{ports[0]}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(processes),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(process),
            }
        else:
            cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
            task = {"type": "worker", "index": process}
            own = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
        found.append({**common, **own})
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def begin(
    folder: Path, output: Path, backend: str, processes: int, **options: Any
) -> list[subprocess.Popen]:
    """Start all processes of a run; `options` are of `km.train` and overrides."""
    request = {"folder": str(folder), "output": str(output), **options}
    request["distributed"] = processes > 1
    return [
        subprocess.Popen(
            python_command("-c", _PROGRAM, json.dumps(request)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for environment in environments(backend, processes, options.get("devices"))
    ]


def end(started: Sequence[subprocess.Popen]) -> list[dict[str, Any]]:
    """What each process has to say, when all have ended well."""
    ended = [process.communicate(timeout=SECONDS) for process in started]
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(said.splitlines()[-1]) for said, _ in ended]


def main(request: Mapping[str, Any]) -> None:
    import keras

    import keras_metaformer as km
    from keras_metaformer.arrays import to_numpy
    from keras_metaformer_lite.data.sources import open_source

    if keras.backend.backend() == "tensorflow" and "devices" in request:
        import tensorflow as tf

        (processor,) = tf.config.list_physical_devices("CPU")
        parts = [tf.config.LogicalDeviceConfiguration()] * request["devices"]
        tf.config.set_logical_device_configuration(processor, parts)
    folder = Path(request["folder"])
    train = Noted(open_source(folder / "train"))
    losses: list[float] = []

    class Notes(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            train.read.clear()  # The writing process has looked at all of them.

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            losses.append(float(to_numpy((logs or {})["loss"])))

        def get_state(self) -> dict[str, Any]:
            return {}

        def set_state(self, state: Any) -> None:
            pass

    options = {
        name: request[name]
        for name in ("distributed", "devices", "model_parallel", "checkpoint_every")
        if name in request
    }
    result = km.train(
        train,
        request.get("model", str(folder / "small.keras")),
        output=request["output"],
        validation=folder / "val",
        overrides={**OVERRIDES, **request.get("overrides", {})},
        seed=3,
        workers=0,
        callbacks=[Notes()],
        say=lambda text: print(text, file=sys.stderr),
        **options,
    )
    print(
        json.dumps(
            {
                "losses": losses,
                "images": train.read,
                "history": result.history,
                "finished": result.finished,
                "accuracy": result.accuracy,
            }
        )
    )


def checkpoint(output: Path) -> dict[str, np.ndarray]:
    """The weights, averages and moments that a run ended with."""
    from keras_metaformer.training.checkpoint import read_state

    return read_state(output / "checkpoint.safetensors")[0]
