"""A run that is stopped anywhere goes on bit for bit."""

import itertools
import os
import signal

import keras
import numpy as np
import pytest

from keras_metaformer.arrays import to_numpy
from keras_metaformer.training import checkpoint, loop
from keras_metaformer_lite.data.errors import DataError
from tests.training.small_run import STEPS, RandomBatches, make_loop


class Stop(Exception):
    """As if the process had ended here."""


def _state(path):
    arrays, about = checkpoint.read_state(path)
    # Keras counts the names of optimizers up within a process.
    return {name.partition(" ")[0]: value for name, value in arrays.items()}, about


def _assert_same_state(first, second):
    (arrays, about), (others, other) = _state(first), _state(second)
    assert about == other
    assert arrays.keys() == others.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, others[name], name)


def _stopping(at):
    def on_step(epoch, step):
        if (epoch, step) == at:
            raise Stop

    return on_step


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "state.safetensors"
    make_loop(path, callbacks=[_patience()]).run()
    return path


def _patience():
    return keras.callbacks.EarlyStopping("loss", patience=9, min_delta=100.0)


def test_every_kind_of_state_is_in_the_checkpoint(undisturbed):
    arrays, about = _state(undisturbed)
    kinds = {name.partition("/")[0] for name in arrays}
    assert {"model", "optimizer", "average", "metrics"} <= kinds
    names = checkpoint.read_state(undisturbed)[0]
    seeds = [value for name, value in names.items() if "seed_generator_state" in name]
    # Each generator drew once a step.
    assert seeds and all(seed[1] == 2 * STEPS for seed in seeds)
    assert about["callbacks"][0]["attributes"]["wait"] == 1
    assert len(about["history"]) == 2 and about["finished"]


def test_killed_anywhere_it_goes_on_bit_for_bit(tmp_path, undisturbed):
    """In the middle of an update, at a checkpoint, at an epoch's end, its start."""
    path = tmp_path / "state.safetensors"
    for at in ((0, 1), (0, 3), (0, STEPS), (1, 1), (1, STEPS)):
        options = {"on_step": _stopping(at), "callbacks": [_patience()]}
        with pytest.raises(Stop):
            make_loop(path, **options).run()
    make_loop(path, callbacks=[_patience()]).run()
    _assert_same_state(path, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint(tmp_path, undisturbed, number):
    path = tmp_path / "state.safetensors"
    # The second is in the middle of the run that goes on, the third in its validation.
    options = {"interval": loop.Interval(steps=99)}
    before = signal.getsignal(number)
    with pytest.raises(loop.TrainingStopped) as stopped:
        make_loop(
            path,
            on_step=lambda epoch, step: step == 3 and os.kill(os.getpid(), number),
            callbacks=[_patience()],
            **options,
        ).run()
    assert (stopped.value.epoch, stopped.value.step) == (0, 3)
    assert stopped.value.reason == signal.Signals(number).name
    assert signal.getsignal(number) is before

    def validate(stop_if_asked):
        os.kill(os.getpid(), number)
        stop_if_asked()
        raise AssertionError("went on")

    with pytest.raises(loop.TrainingStopped) as stopped:
        make_loop(path, validate=validate, callbacks=[_patience()], **options).run()
    assert (stopped.value.epoch, stopped.value.step) == (0, STEPS)

    make_loop(path, callbacks=[_patience()], **options).run()
    _assert_same_state(path, undisturbed)


@pytest.mark.one_backend
def test_a_finished_run_stays_as_it_is(tmp_path, undisturbed):
    before = undisturbed.read_bytes()
    again = make_loop(undisturbed, callbacks=[_patience()])
    again.run()
    assert again.finished and len(again.history) == 2
    assert undisturbed.read_bytes() == before


@pytest.mark.one_backend
def test_the_time_limit_ends_a_run(tmp_path):
    with pytest.raises(loop.TrainingStopped) as stopped:
        make_loop(tmp_path / "state.safetensors", seconds=0.0).run()
    assert (stopped.value.reason, stopped.value.step) == ("time", 1)


@pytest.mark.one_backend
def test_the_logs_of_validation_reach_the_callbacks(tmp_path):
    seen = []

    class Listener(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append((batch, sorted(logs or {})))

        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, sorted(logs or {})))

    run = make_loop(
        tmp_path / "state.safetensors",
        validate=lambda _: {"val_accuracy": 0.25},
        callbacks=[Listener()],
    )
    run.run()
    assert seen[:2] == [(0, ["accuracy", "loss"]), (1, ["accuracy", "loss"])]
    assert seen[STEPS] == (0, ["accuracy", "loss", "val_accuracy"])
    assert [row["val_accuracy"] for row in run.history] == [0.25, 0.25]


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(tmp_path):
    path = tmp_path / "state.safetensors"
    run = make_loop(path, RandomBatches(bad=(1, 1)), interval=loop.Interval(steps=1))
    with pytest.raises(loop.NonFiniteLossError) as found:
        run.run()
    assert (found.value.epoch, found.value.step) == (1, 1)
    arrays, about = _state(path)
    assert (about["epoch"], about["step"]) == (1, 1)
    assert all(np.isfinite(value).all() for value in arrays.values())
    # What it was before the step is to be had again, from any older checkpoint.
    old = tmp_path / "old.safetensors"
    with pytest.raises(loop.TrainingStopped):
        make_loop(old, seconds=0.0).run()
    replayed = make_loop(old, RandomBatches(bad=(1, 1)))
    replayed.replay(1, 1)
    variables = {"model": replayed.classifier.variables}
    for name, variable in checkpoint.named_variables(variables).items():
        expected = arrays[name.partition(" ")[0]]
        np.testing.assert_array_equal(to_numpy(variable.value), expected, name)


def test_an_error_of_the_batches_is_raised_as_it_is(tmp_path):
    class Failing(RandomBatches):
        def epoch(self, epoch, start_step=0):
            yield from itertools.islice(super().epoch(epoch, start_step), 2)
            raise DataError("Cannot be read. Received: 'cat.jpg'")

    path = tmp_path / "state.safetensors"
    run = make_loop(path, Failing(), interval=loop.Interval(steps=1))
    with pytest.raises(DataError, match=r"cat\.jpg"):
        run.run()
    assert _state(path)[1]["step"] == 2


@pytest.mark.one_backend
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, undisturbed):
    path = tmp_path / "state.safetensors"
    write, written = checkpoint._write, []

    def fail(stream, arrays, metadata):
        written.append(stream)
        if len(written) == 3:
            stream.write(b"half of it")
            raise OSError(28, "No space left on device")
        write(stream, arrays, metadata)

    monkeypatch.setattr(checkpoint, "_write", fail)
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        make_loop(path, callbacks=[_patience()]).run()
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]
    assert (_state(path)[1]["epoch"], _state(path)[1]["step"]) == (0, 2)
    monkeypatch.undo()
    make_loop(path, callbacks=[_patience()]).run()
    _assert_same_state(path, undisturbed)
