"""The engines that train on several devices: JAX's, PyTorch's and TensorFlow's own.

What a run asks of them is `Engine`; the rest of `training` does not know which one it
has. Every process does the same steps in the same order, because each of them may be a
meeting: what only one process is to do, it does inside `alone()`.
"""

import contextlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import keras
import numpy as np

from keras_metaformer.arrays import to_numpy
from keras_metaformer.training.models import softmax

#: Why a run may end before its last epoch, as processes tell each other.
_REASONS = (None, "time", "SIGTERM", "SIGINT")
#: After so many seconds without a sign of life JAX takes a process for dead.
_HEARTBEAT_SECONDS = 30
#: So long the processes of torch wait for each other at the start, as JAX's do.
_START_SECONDS = 300
#: How often, in seconds, the processes ask each other whether one has to stop.
_SECONDS_BETWEEN_QUESTIONS = 1.0
_WORDS_FOR_LOST = (
    "gloo",
    "nccl",
    "connection",
    "peer",
    "unavailable",
    "heartbeat",
    "collective",
    "barrier",
)
_LARGEST_SEED = 2**31 - 1


class ProcessLost(RuntimeError):
    """Another process of the run has ended, or cannot be reached."""


class Engine:
    """One process with one device, which is where most runs are.

    Attributes:
        process: int. Which of the processes this one is.
        processes: int. How many there are.
        replicas: int. In how many equal parts a batch is computed.
    """

    process = 0
    processes = 1
    replicas = 1

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files and says something."""
        return self.process == 0

    @property
    def part(self) -> tuple[int, int]:
        """`(number, of)`: the part of each batch whose images this process makes."""
        return self.process, self.processes

    def describe(self) -> str:
        """The devices and processes, in words, for the line that introduces a run."""
        return ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Between the start of the engine and its end.

        Raises:
            ProcessLost: in the place of what the engine raises when another process
                has ended.
        """
        yield

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Where models are built and trained."""
        yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Where one process builds models and computes without the others."""
        yield

    def gather(self, array: np.ndarray) -> np.ndarray:
        """An array of one shape from each process, `(processes, ...)`, in their order.

        Args:
            array: of int32, uint8 or float32.
        """
        return array[np.newaxis]

    def wrap(self, model: keras.Model) -> keras.Model:
        """What is to be compiled and fitted so that the engine trains `model`."""
        return model

    def feed(self, batches: Generator[Any, None, None]) -> Any:
        """What `model.fit` is to be given of the batches of this process."""
        return batches

    def probabilities(self, model: keras.Model, images: np.ndarray) -> np.ndarray:
        """The probabilities of a whole batch, of a model that gives logits.

        Args:
            model: with logits `(batch, classes)`.
            images: the images of this process.

        Returns:
            Float32 `(batch, classes)`, in every process.
        """
        return softmax(model.predict_on_batch(images))

    def restored(self, model: keras.Model) -> None:
        """Called when all of a run's state is in place, and before its first step."""

    def _is_about_others(self, error: Exception) -> bool:
        """Whether an error says that another process cannot be reached.

        The engines have no class for it, but words.
        """
        text = f"{type(error).__name__} {error}".lower()
        return self.processes > 1 and any(word in text for word in _WORDS_FOR_LOST)

    # Made of `gather`

    def share(self, value: Any) -> Any:
        """What the first process has, in every process; of what JSON can hold."""
        if self.processes == 1:
            return value
        text = json.dumps(value).encode() if self.writes else b""
        size = int(self.gather(np.array([len(text)], "int32"))[0, 0])
        content = np.zeros(size, "uint8")
        if self.writes:
            content[:] = np.frombuffer(text, "uint8")
        return json.loads(self.gather(content)[0].tobytes())

    def agree_on(self, value: Any, what: str) -> None:
        """Raise an error in each process whose value is not that of the first.

        Args:
            value: what JSON can hold.
            what: the value in words.

        Raises:
            ValueError: if it is another one.
        """
        first = self.share(value)
        value = json.loads(json.dumps(value))
        same = self.gather(np.array([first == value], "int32"))
        if not same.all():
            others = np.flatnonzero(same[:, 0] == 0).tolist()
            raise ValueError(
                f"Expected the same {what} in each process: the same command, data and "
                f"folder of the run. Different in the processes {others}. "
                f"Received: {value!r:.300} in process {self.process}, {first!r:.300} "
                "in process 0"
            )


class Agreement:
    """What all processes do after the same step: stop, or write a checkpoint.

    A signal reaches one process, and clocks differ: so the processes ask each other,
    every second or so, all after the same step.
    """

    def __init__(
        self, engine: Engine, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine, self._clock = engine, clock
        self._steps = self._left = 1
        self._asked_at = clock()

    def decide(self, reason: str | None, save: bool) -> tuple[str | None, bool]:
        """To be called by every process after each of its steps.

        Args:
            reason: why this process has to stop, or None.
            save: whether it is time for a checkpoint, by the clock of this process.

        Returns:
            The same two, for all.
        """
        if self._engine.processes == 1:
            return reason, save
        self._left -= 1
        if self._left:
            return None, False
        now = self._clock()
        each = max(now - self._asked_at, 1e-6) / self._steps
        # The first process says how many steps make a second.
        steps = int(np.clip(_SECONDS_BETWEEN_QUESTIONS / each, 1, 1000))
        own = [_REASONS.index(reason), save, steps if self._engine.writes else 0]
        found = self._engine.gather(np.array(own, "int32")).max(axis=0)
        self._steps = self._left = int(found[2])
        self._asked_at = self._clock()
        return _REASONS[found[0]], bool(found[1])


def start(
    devices: int | None = None, distributed: bool = False, model_parallel: int = 1
) -> Engine:
    """The engine of the backend in use, ready.

    Args:
        devices: of this process to train on; None for one.
        distributed: whether this is one of several processes, which a launcher has
            started and told so.
        model_parallel: over how many devices each large weight is spread (JAX).

    Raises:
        ValueError: if the backend cannot do that, or an environment variable is
            missing or makes no sense.
    """
    received = (
        f"Received: devices={devices}, distributed={distributed}, "
        f"model_parallel={model_parallel}"
    )
    for name, value in (("devices", devices), ("model_parallel", model_parallel)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive. {received}")
    if distributed and devices is not None:
        raise ValueError(
            "Give `devices` for several devices of one process, or `distributed` for "
            f"several processes, which train on all of their devices. {received}"
        )
    backend = keras.backend.backend()
    if model_parallel > 1 and (backend != "jax" or distributed):
        raise ValueError(
            "Weights are spread over the devices of one process, by JAX: give "
            f"`devices`, and KERAS_BACKEND=jax. {received}, backend {backend!r}"
        )
    if not distributed and (devices or 1) == 1 and model_parallel == 1:
        return Engine()
    if backend == "jax":
        return _Jax(devices, distributed, model_parallel)
    if backend == "tensorflow":
        return _TensorFlow(devices, distributed)
    if backend == "torch":
        if not distributed:
            raise ValueError(
                "PyTorch trains with a process for each device: run the program under "
                f"`torchrun --nproc-per-node={devices}`, with `distributed`; the "
                f"command `keras-metaformer train --devices` does so. {received}"
            )
        return _Torch()
    raise ValueError(f"The backend {backend!r} does not train. {received}")


# JAX


class _Jax(Engine):
    """`keras.distribution`: one program for all devices of all processes."""

    def __init__(
        self, devices: int | None, distributed: bool, model_parallel: int
    ) -> None:
        import jax

        if distributed:
            _join_jax()
        self.process, self.processes = jax.process_index(), jax.process_count()
        found = keras.distribution.list_devices()
        if devices is not None:
            if devices > len(found):
                raise ValueError(
                    f"JAX has {len(found)} devices. On a CPU, XLA_FLAGS="
                    f"--xla_force_host_platform_device_count={devices} makes as many, "
                    f"to try things out. Received: devices={devices}"
                )
            found = found[:devices]
        self._devices = len(found)
        self._distribution: Any
        if model_parallel == 1:
            self.replicas = len(found)
            self._distribution = keras.distribution.DataParallel(
                devices=found, auto_shard_dataset=False
            )
        else:
            from keras_metaformer.training.layouts import LargeWeightsSpread

            self._distribution = LargeWeightsSpread(found, model_parallel)
            self.replicas = len(found) // model_parallel
        self._functions: dict[int, Any] = {}

    def describe(self) -> str:
        text = f"{self._devices} devices of {self.processes} process"
        text += "es" if self.processes > 1 else ""
        if self.replicas < self._devices:
            text += f", large weights over {self._devices // self.replicas} of them"
        return text

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        import jax

        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if not self._is_about_others(error):
                raise
            raise _lost(error) from error

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with _distributed(self._distribution):
            yield

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with _distributed(None):
            yield

    def gather(self, array: np.ndarray) -> np.ndarray:
        if self.processes == 1:
            return array[np.newaxis]
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array))

    def probabilities(self, model: keras.Model, images: np.ndarray) -> np.ndarray:
        import jax

        mesh = self._distribution.device_mesh.backend_mesh
        if id(model) not in self._functions:
            everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

            def run(trainable, others, inputs):
                outputs = model.stateless_call(  # pyright: ignore[reportCallIssue]
                    trainable, others, inputs, training=False
                )
                return outputs[0]

            self._functions[id(model)] = jax.jit(run, out_shardings=everywhere)
        layout = self._distribution.get_data_layout(images.shape).backend_layout
        outputs = self._functions[id(model)](
            [variable.value for variable in model.trainable_variables],
            [variable.value for variable in model.non_trainable_variables],
            jax.make_array_from_process_local_data(layout, images),
        )
        return softmax(outputs)


@contextlib.contextmanager
def _distributed(distribution: Any) -> Iterator[None]:
    """Keras' distribution is this one, and afterwards what it was."""
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _join_jax() -> None:
    """Start JAX' distributed runtime, unless the program has done so."""
    import jax

    if jax.distributed.is_initialized():
        return
    address = os.environ.get("KERAS_DISTRIBUTION_JOB_ADDRESSES")
    # Its own handler of SIGTERM would take the place of ours.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator_address=None if address is None else address.split(",")[0],
            num_processes=_number("KERAS_DISTRIBUTION_NUM_PROCESSES", missing=None),
            process_id=_number("KERAS_DISTRIBUTION_PROCESS_ID", missing=None),
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"JAX cannot join the other processes: {error}. It knows by itself what "
            "SLURM, Open MPI, Kubernetes and Cloud TPU say; else set "
            "KERAS_DISTRIBUTION_JOB_ADDRESSES (of process 0, with a port), "
            "KERAS_DISTRIBUTION_NUM_PROCESSES and KERAS_DISTRIBUTION_PROCESS_ID."
        ) from error


# TensorFlow


class _TensorFlow(Engine):
    """`tf.distribute`: Mirrored in one process, MultiWorkerMirrored in several."""

    def __init__(self, devices: int | None, distributed: bool) -> None:
        import tensorflow as tf

        if distributed:
            if "TF_CONFIG" not in os.environ:
                raise ValueError(
                    "TensorFlow is told by TF_CONFIG who the processes are: JSON of "
                    '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": '
                    '"worker", "index": 0}}. Received: no TF_CONFIG in the environment'
                )
            try:
                self._strategy: Any = tf.distribute.MultiWorkerMirroredStrategy()
            except (RuntimeError, ValueError, tf.errors.OpError) as error:
                raise ValueError(
                    f"TensorFlow cannot join the other processes: {error}. "
                    f"Received: TF_CONFIG={os.environ['TF_CONFIG']!r:.300}"
                ) from error
            resolver = self._strategy.cluster_resolver
            jobs = set(resolver.cluster_spec().jobs)
            if jobs != {"worker"}:
                raise ValueError(
                    "Expected TF_CONFIG with workers alone, of which the first one "
                    f"writes. Received: jobs {sorted(jobs)}"
                )
            self.process = int(resolver.task_id)
            self.processes = int(resolver.cluster_spec().num_tasks("worker"))
        else:
            kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
            found: Any = tf.config.list_logical_devices(kind)
            if devices is None or devices > len(found):
                raise ValueError(
                    f"TensorFlow has {len(found)} devices of the kind {kind}. "
                    f"Received: devices={devices}"
                )
            names = [f"{kind}:{place}" for place in range(devices)]
            # NCCL is for GPUs alone.
            operations = (
                None
                if kind == "GPU"
                else tf.distribute.HierarchicalCopyAllReduce(num_packs=1)
            )
            self._strategy = tf.distribute.MirroredStrategy(names, operations)
        self.replicas = int(self._strategy.num_replicas_in_sync)
        self._local = self.replicas // self.processes
        self._scope = contextlib.ExitStack()
        self._functions: dict[int, Any] = {}

    def describe(self) -> str:
        kind = type(self._strategy).__name__
        return f"{self.replicas} replicas by {kind} (experimental)"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        import tensorflow as tf

        try:
            yield
        except (tf.errors.OpError, RuntimeError) as error:
            if not self._is_about_others(error):
                raise
            raise _lost(error) from error

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        self._scope.enter_context(self._strategy.scope())
        try:
            yield
        finally:
            self._scope.close()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        import tensorflow as tf

        inside = tf.distribute.has_strategy()
        if inside:
            self._scope.close()
        try:
            yield
        finally:
            if inside:
                self._scope.enter_context(self._strategy.scope())

    def gather(self, array: np.ndarray) -> np.ndarray:
        if self.processes == 1:
            return array[np.newaxis]
        # Collectives know no bytes.
        sent = array.astype("int32") if array.dtype == np.uint8 else array
        found = self._strategy.gather(self._each(lambda _: sent[np.newaxis]), axis=0)
        return found.numpy()[:: self._local].astype(array.dtype)

    def _each(self, value: Callable[[int], np.ndarray]) -> Any:
        """A value for each replica of this process, by its number in the process."""
        import tensorflow as tf

        return self._strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                value(context.replica_id_in_sync_group % self._local)
            )
        )

    def wrap(self, model: keras.Model) -> keras.Model:
        for layer in model._flatten_layers():
            if type(layer) is keras.layers.BatchNormalization:
                layer._moments = _MomentsOfReplicas(layer)  # pyright: ignore[reportAttributeAccessIssue]
        # It takes a batch away, and fails on one of several processes. All is built.
        model._maybe_symbolic_build = _built_already  # pyright: ignore[reportAttributeAccessIssue]
        return model

    def feed(self, batches: Generator[Any, None, None]) -> Any:
        if self.processes == 1:
            return batches
        import tensorflow as tf

        first = next(batches)
        signature = tuple(tf.TensorSpec(each.shape, each.dtype) for each in first)
        size = len(first[0]) // self._local

        def from_here() -> Iterator[Any]:
            yield first
            yield from batches

        def dataset(context: Any) -> Any:
            made = tf.data.Dataset.from_generator(from_here, output_signature=signature)
            return made if self._local == 1 else made.rebatch(size)

        return self._strategy.distribute_datasets_from_function(dataset)

    def _train_function(self, model: Any) -> Any:
        """What `fit` is to call with its iterator, for several processes.

        That of Keras takes the mean of the logs, which are scalars, along an axis.
        """
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def train(iterator: Any) -> dict[str, Any]:
            logs = self._strategy.run(model.train_step, args=(next(iterator),))
            return {
                name: self._strategy.reduce("MEAN", value, axis=None)
                for name, value in logs.items()
            }

        return train

    def probabilities(self, model: keras.Model, images: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        if id(model) not in self._functions:

            @tf.function
            def run(values: Any) -> Any:
                return self._strategy.run(
                    lambda inputs: model(inputs, training=False), args=(values,)
                )

            self._functions[id(model)] = run
        parts = np.split(images, self._local)
        found = self._functions[id(model)](self._each(lambda place: parts[place]))
        results = self._strategy.experimental_local_results(found)
        own = softmax(np.concatenate([each.numpy() for each in results]))
        return self.gather(own).reshape(-1, own.shape[-1])

    def restored(self, model: keras.Model) -> None:
        """Give each replica random numbers of its own, the first one those it has."""
        if self.processes > 1:
            model.train_function = self._train_function(model)
        for variable in _seeds(model):
            components = self._strategy.experimental_local_results(variable.value)
            for place, component in enumerate(components):
                replica = self.process * self._local + place
                component.assign(_seed_of(component.numpy(), replica))


def _built_already(**_: Any) -> None:
    """Stands for what builds a model before `fit`."""


class _MomentsOfReplicas:
    """Mean and variance over the images of all replicas, of a batch norm."""

    def __init__(self, layer: Any) -> None:
        self._axes = layer._reduction_axes

    def __call__(self, inputs: Any, mask: Any) -> Any:
        return keras.ops.moments(inputs, axes=self._axes, synchronized=True)


# PyTorch


class _Torch(Engine):
    """`DistributedDataParallel`: a process for each device, under `torchrun`."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as group
        from torch.distributed.constants import default_pg_timeout
        from torch.distributed.rendezvous import rendezvous

        rank = _number("LOCAL_RANK", missing=0)
        if torch.cuda.is_available():
            torch.cuda.set_device(rank)
        self._own = not group.is_initialized()
        if self._own:
            for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                if name not in os.environ:
                    raise ValueError(
                        "Run the command under `torchrun`, which says who is who. "
                        f"Received: no {name} in the environment"
                    )
            gpus = torch.cuda.is_available()
            wait = timedelta(seconds=_START_SECONDS)
            try:
                store, place, number = next(rendezvous("env://", timeout=wait))
                # Under torchrun the store is there before the processes are.
                if store.add("arrived", 1) == number:
                    store.set("all", "here")
                store.wait(["all"], wait)
                # Later steps may take as long as torch lets them.
                store.set_timeout(default_pg_timeout)
                group.init_process_group(
                    "cpu:gloo,cuda:nccl" if gpus else "gloo",
                    store=group.PrefixStore("default_pg", store),  # pyright: ignore[reportPrivateImportUsage]
                    rank=place,
                    world_size=number,
                )
            except RuntimeError as error:
                raise ProcessLost(
                    "The processes of the run have not come together at "
                    f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within "
                    f"{_START_SECONDS} seconds: {os.environ['WORLD_SIZE']} were "
                    f"expected. Has one ended? ({type(error).__name__}: {error})"
                ) from error
        self.process = group.get_rank()
        self.processes = self.replicas = group.get_world_size()

    def describe(self) -> str:
        return f"{self.processes} processes"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        import torch.distributed as group

        try:
            yield
        except RuntimeError as error:
            if not self._is_about_others(error):
                raise
            raise _lost(error) from error
        finally:
            if self._own:
                group.destroy_process_group()

    def gather(self, array: np.ndarray) -> np.ndarray:
        import torch
        import torch.distributed as group

        own = torch.from_numpy(np.ascontiguousarray(array))
        found = [torch.empty_like(own) for _ in range(self.processes)]
        group.all_gather(found, own)
        return np.stack([each.numpy() for each in found])

    def wrap(self, model: keras.Model) -> keras.Model:
        from keras_metaformer.training.torch_replica import Replica

        return Replica(model, keras_wraps=_keras_wraps())

    def probabilities(self, model: keras.Model, images: np.ndarray) -> np.ndarray:
        own = softmax(model.predict_on_batch(images))
        return self.gather(own).reshape(-1, own.shape[-1])

    def restored(self, model: keras.Model) -> None:
        """Give this process random numbers of its own.

        The checkpoint has those of the first one, which keeps them.
        """
        for variable in _seeds(model):
            variable.assign(_seed_of(to_numpy(variable.value), self.process))


def _keras_wraps() -> bool:
    """Whether this Keras' `fit` makes a model data parallel by itself, with torch.

    So it does since the module of that name is there, after 3.15.
    """
    return (
        importlib.util.find_spec("keras.src.backend.torch.distribution_lib") is not None
    )


def _lost(error: Exception) -> ProcessLost:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return ProcessLost(
        "Another process of the run has ended or cannot be reached: what it says is "
        "the cause. The same command goes on from the last checkpoint, with as many "
        "processes or another number that the batch can be divided by. "
        f"({type(error).__name__}: {first[:300]})"
    )


def _number(name: str, missing: Any) -> Any:
    text = os.environ.get(name)
    if text is None:
        return missing
    if not text.isdecimal():
        raise ValueError(f"Expected a number in {name}. Received: {name}={text!r}")
    return int(text)


def _seeds(model: keras.Model) -> list[Any]:
    """The states of the random layers, which are no weights."""
    weights = {id(weight) for weight in model.weights}
    return [each for each in model.variables if id(each) not in weights]


def _seed_of(state: np.ndarray, replica: int) -> np.ndarray:
    """The state of a seed generator in another replica; the first one keeps its own.

    Seeds are an odd part of all seeds apart, so that those of one replica are not met
    by the counts of another.
    """
    seed, count = state.tolist()
    if replica:
        seed = (seed + replica * 0x9E3779B1) % _LARGEST_SEED
    return np.array([seed, count], state.dtype)
