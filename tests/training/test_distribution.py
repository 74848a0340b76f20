"""Several processes and devices train as one does."""

import json
import os
import signal
import time

import keras
import numpy as np
import pytest

from keras_metaformer.training import distribution
from tests.training import several_processes

BACKEND = keras.backend.backend()
#: Of a loss, and of what it comes of, at any step.
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    several_processes.write_data(folder)
    return folder


def _run(data, output, processes, **options):
    started = several_processes.begin(data, output, BACKEND, processes, **options)
    return several_processes.end(started)


def _check_alike(data, alone, together, outputs, epochs):
    losses = [each["losses"] for each in (alone, *together)]
    for found in losses[1:]:
        np.testing.assert_allclose(found, losses[0], rtol=TOLERANCE)
        # What one process knows of the loss, all know.
        assert found == losses[1]
    images = sum(1 for _ in (data / "train").rglob("*.png"))
    read = [place for each in together for place in each["images"]]
    assert sorted(read) == sorted(list(range(images)) * epochs)
    assert all(each["finished"] for each in together)
    assert {each["accuracy"] for each in together} == {alone["accuracy"]}
    for name, value in alone["history"][-1].items():
        for each in together:
            assert each["history"][-1][name] == pytest.approx(value, rel=TOLERANCE)
    arrays, others = map(several_processes.checkpoint, outputs)
    assert arrays.keys() == others.keys()
    for name, value in arrays.items():
        np.testing.assert_allclose(
            others[name].astype("float64"),
            value.astype("float64"),
            rtol=1e-3,
            atol=2e-4,
            err_msg=name,
        )


@pytest.mark.timeout(3600)
def test_two_processes_train_as_one(data, tmp_path):
    outputs = tmp_path / "one", tmp_path / "two"
    overrides = {"epochs": 1}
    (alone,) = _run(data, outputs[0], 1, overrides=overrides)
    together = _run(data, outputs[1], 2, overrides=overrides)
    _check_alike(data, alone, together, outputs, epochs=1)


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_two_processes_train_as_one_for_fifty_steps(data, tmp_path):
    outputs = tmp_path / "one", tmp_path / "two"
    overrides = {"epochs": 9, "accumulate": 2}
    (alone,) = _run(data, outputs[0], 1, overrides=overrides)
    together = _run(data, outputs[1], 2, overrides=overrides)
    assert len(alone["losses"]) == 54
    _check_alike(data, alone, together, outputs, epochs=9)


@pytest.mark.large
@pytest.mark.timeout(3600)
@pytest.mark.skipif(BACKEND == "torch", reason="a process has one device")
@pytest.mark.parametrize(
    ("devices", "model_parallel"),
    [(2, 1)] if BACKEND == "tensorflow" else [(4, 1), (8, 1), (4, 2), (2, 2)],
)
def test_several_devices_train_as_one(data, tmp_path, devices, model_parallel):
    outputs = tmp_path / "one", tmp_path / "several"
    overrides = {"epochs": 9, "accumulate": 2}
    (alone,) = _run(data, outputs[0], 1, overrides=overrides)
    together = _run(
        data,
        outputs[1],
        1,
        overrides=overrides,
        devices=devices,
        model_parallel=model_parallel,
    )
    _check_alike(data, alone, together, outputs, epochs=9)


@pytest.mark.skipif(BACKEND != "jax", reason="about JAX")
def test_large_weights_are_spread_and_small_ones_are_not():
    from keras_metaformer.training.layouts import LargeWeightsSpread

    model = several_processes.small_hybrid()
    spread = LargeWeightsSpread([f"cpu:{place}" for place in range(6)], 2)
    assert spread.device_mesh.shape == (3, 2)
    axes = {each.path: spread.get_variable_layout(each).axes for each in model.weights}
    mixer = "stage_0_block_0/token_mixing/transform"
    assert axes[f"{mixer}/expand/kernel"] == (None, "model")
    assert axes[f"{mixer}/depthwise/kernel"] == (None, None, "model", None)
    assert axes[f"{mixer}/project/kernel"] == ("model", None)
    assert axes["stem/convolution/kernel"] == (None,) * 4
    sizes = {each.path: each.shape for each in model.weights}
    cut = sum(np.prod(sizes[path]) for path, each in axes.items() if "model" in each)
    assert cut > 0.8 * model.count_params()
    # What does not divide is whole.
    thirds = LargeWeightsSpread([f"cpu:{place}" for place in range(5)], 5)
    assert {
        thirds.get_variable_layout(each).axes.count("model") for each in model.weights
    } == {0}
    with pytest.raises(ValueError, match=r"multiple .* 5 devices, model_parallel=2"):
        LargeWeightsSpread([f"cpu:{place}" for place in range(5)], 2)


def _kill(started, output, seconds):
    """Kills the second process some time after a first step, and waits for both."""
    checkpoint = output / "checkpoint.safetensors"
    old = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
    begun = time.monotonic()
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == old:
        assert time.monotonic() - begun < several_processes.SECONDS
        assert started[0].poll() is None, started[0].communicate()[1][-3000:]
        time.sleep(0.1)
    time.sleep(seconds)
    started[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    _, errors = started[0].communicate(timeout=several_processes.SECONDS)
    started[1].communicate()
    return time.monotonic() - killed, errors


@pytest.mark.large
@pytest.mark.timeout(7200)
def test_a_run_goes_on_after_a_process_was_killed(data, tmp_path):
    # Long enough that none of ten kills comes too late.
    options = {"checkpoint_every": 1, "overrides": {"epochs": 20}}
    (whole,) = [_run(data, tmp_path / "whole", 2, **options)[0]]
    output = tmp_path / "killed"
    chance = np.random.default_rng(0)
    for _ in range(10):
        started = several_processes.begin(data, output, BACKEND, 2, **options)
        seconds, errors = _kill(started, output, chance.uniform(0, 0.7))
        assert started[0].returncode != 0, "The run was done before it could be killed"
        assert seconds < 60
        assert "process" in errors
    (ended, _) = _run(data, output, 2, **options)
    assert ended["finished"] and ended["accuracy"] == whole["accuracy"]
    # TensorFlow keeps a metric in a part for each process, of which the checkpoint has
    # the sum: a run that goes on within an epoch adds them up in another order.
    tolerance = 1e-6 if BACKEND == "tensorflow" else 0
    for found, expected in zip(ended["history"], whole["history"], strict=True):
        assert found == pytest.approx(expected, rel=tolerance, abs=0)
    # Another number of processes goes on with it.
    states = [several_processes.checkpoint(tmp_path / n) for n in ("whole", "killed")]
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value, name)


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_one_process_goes_on_with_what_two_began(data, tmp_path):
    overrides = {"epochs": 2}
    (whole,) = _run(data, tmp_path / "whole", 1, overrides=overrides)
    options = {"checkpoint_every": 1, "overrides": overrides}
    output = tmp_path / "two"
    started = several_processes.begin(data, output, BACKEND, 2, **options)
    while not (output / "checkpoint.safetensors").exists():
        time.sleep(0.1)
    # As a scheduler does that wants the machine: to one of them, and all stop.
    started[1].send_signal(signal.SIGTERM)
    stopped = several_processes.end(started)
    assert not any(each["finished"] for each in stopped)
    (ended,) = _run(data, output, 1, overrides=overrides)
    assert ended["finished"]
    for name, value in whole["history"][-1].items():
        assert ended["history"][-1][name] == pytest.approx(value, rel=TOLERANCE)


class _Talk(distribution.Engine):
    """Processes that are threads of a test, in turn."""

    def __init__(self, process, processes, answers):
        self.process, self.processes = process, processes
        self._answers = answers

    def gather(self, array):
        return np.stack([array, *self._answers(array)])


@pytest.mark.backend_independent
def test_processes_stop_after_the_same_step_and_ask_once_a_second():
    asked = []

    def others(array):
        asked.append(array)
        return [np.array([2 if len(asked) == 3 else 0, 0, 0], "int32")]

    seconds = [0.0]
    agreement = distribution.Agreement(_Talk(0, 2, others), lambda: seconds[0])
    decided = []
    for _ in range(40):
        seconds[0] += 0.1  # a step
        decided.append(agreement.decide(None, False))
    assert [each for each in decided if each[0]] == [("SIGTERM", False)]
    assert 4 <= len(asked) <= 6
    # One process asks no one.
    alone = distribution.Agreement(distribution.Engine())
    assert alone.decide("time", True) == ("time", True)


@pytest.mark.backend_independent
def test_processes_with_other_settings_are_told():
    text = json.dumps({"seed": 1}).encode()

    def others(array):
        if array.dtype == np.uint8:
            return [np.zeros_like(array)]
        return [np.array([0], "int32")]

    engine = _Talk(0, 2, others)
    assert engine.share({"seed": 1}) == {"seed": 1} and text
    with pytest.raises(ValueError, match=r"same configuration .* processes \[1\]"):
        engine.agree_on({"seed": 1}, "configuration")


@pytest.mark.backend_independent
def test_replicas_draw_other_random_numbers():
    state = np.array([7, 3], "int32")
    found = [distribution._seed_of(state, replica) for replica in range(8)]
    assert found[0].tolist() == [7, 3]
    assert len({each[0] for each in found}) == 8
    assert all(each[1] == 3 and each.dtype == np.int32 for each in found)
    assert all(0 <= each[0] < 2**31 for each in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, False, 1), "`devices` must be positive"),
        ((2, True, 1), "for several devices of one process, or `distributed`"),
        ((None, True, 2), "spread over the devices of one process"),
        ((None, True, 1), "RANK|KERAS_DISTRIBUTION|TF_CONFIG"),
        ((64, False, 1), "64"),
    ],
)
def test_what_cannot_be_is_said(arguments, message, monkeypatch):
    for name in ("RANK", "TF_CONFIG", "KERAS_DISTRIBUTION_JOB_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    if BACKEND == "jax" and arguments == (None, True, 1):
        monkeypatch.setenv("KERAS_DISTRIBUTION_NUM_PROCESSES", "many")
    with pytest.raises(ValueError, match=message):
        distribution.start(*arguments)
    assert keras.distribution.distribution() is None


@pytest.mark.skipif(BACKEND != "torch", reason="about torch")
@pytest.mark.parametrize("torchrun", [False, True])
def test_a_process_whose_peers_never_come_ends(torchrun, monkeypatch):
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    port = several_processes._free_port()
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    if torchrun:  # Its agent has the store, of which processes are clients.
        environment["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        environment["TORCHELASTIC_RESTART_COUNT"] = "0"
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        assert store.port == port
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distribution, "_START_SECONDS", 1)
    with pytest.raises(distribution.ProcessLost, match="within 1 seconds: 2 were"):
        distribution.start(distributed=True)


def test_a_run_of_one_device_has_no_engine():
    for arguments in ((), (None, False, 1), (1, False, 1)):
        engine = distribution.start(*arguments)
        assert type(engine) is distribution.Engine
        assert engine.writes and engine.part == (0, 1)
    assert os.environ.get("TF_CONFIG") is None
