"""The file that holds a run."""

import weakref

import keras
import ml_dtypes
import numpy as np
import pytest

from keras_metaformer.training import checkpoint

pytestmark = pytest.mark.backend_independent


def test_arrays_of_any_type_come_back(tmp_path):
    arrays = {
        "bfloat16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        "seed": np.array([1, 2], "uint32"),
        "count": np.array(7, "int64"),
        "empty": np.zeros((0, 3), "float32"),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    path = tmp_path / "state.safetensors"
    checkpoint.write_state(path, arrays, {"epoch": 3, "best": float("inf")})
    found, about = checkpoint.read_state(path)
    assert about == {"epoch": 3, "best": float("inf")}
    assert checkpoint.read_about(path) == about
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("content", [b"", b"no such thing", b"\xff" * 64])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match="Received: path="):
        checkpoint.read_state(path)


def test_weights_of_others_are_no_checkpoint(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(checkpoint.CheckpointError, match="format=None"):
        checkpoint.read_state(path)


def test_a_disk_without_room_is_named(tmp_path):
    path = tmp_path / "no such folder" / "state.safetensors"
    with pytest.raises(checkpoint.CheckpointError, match="Expected to write"):
        checkpoint.write_state(path, {}, {})


def test_variables_are_copied_one_by_one(tmp_path, monkeypatch):
    """No second copy of all of a model: the next is taken when one is written."""
    variables = [
        keras.Variable(np.full(2, place), dtype=dtype, trainable=False, name="weight")
        for place, dtype in enumerate(("float32", "bfloat16", "int32"))
    ]
    held, most = [], []

    def to_numpy(tensor):
        value = np.array(keras.ops.convert_to_numpy(tensor))
        held.append(weakref.ref(value))
        most.append(sum(each() is not None for each in held))
        return value

    monkeypatch.setattr(checkpoint, "to_numpy", to_numpy)
    path = tmp_path / "state.safetensors"
    named = checkpoint.named_variables({"model": variables})
    checkpoint.write_state(path, named, {})
    assert len(most) == 3 and max(most) <= 2
    found, _ = checkpoint.read_state(path)
    assert found.keys() == named.keys()
    for place, name in enumerate(named):
        assert found[name].dtype == variables[place].dtype
        assert found[name].tolist() == [place, place]


def test_variables_are_checked_before_any_is_changed():
    first = keras.Variable(np.zeros(2, "float32"), name="first")
    second = keras.Variable(np.zeros(3, "float32"), name="second")
    groups = {"model": [first, second]}
    named = checkpoint.named_variables(groups)
    assert [name.partition(" ")[0] for name in named] == ["model/0", "model/1"]
    good = {"model/0 first": np.ones(2, "float32")}
    for wrong, message in (
        ({}, "missing"),
        ({"model/1": np.ones(4, "float32")}, r"float32 \(4,\), not float32 \(3,\)"),
        ({"model/1": np.ones(3, "float64")}, "float64"),
        (
            {"model/1": np.ones(3, "float32"), "model/2": np.ones(1)},
            "no such variable",
        ),
    ):
        with pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.assign_variables(groups, good | wrong)
        assert np.all(np.asarray(keras.ops.convert_to_numpy(first)) == 0)
    checkpoint.assign_variables(groups, good | {"model/1": np.full(3, 2, "float32")})
    assert np.all(np.asarray(keras.ops.convert_to_numpy(second)) == 2)


def test_callbacks_say_themselves_what_they_remember():
    class Counting(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.count = 0

        def get_state(self):
            return {"count": self.count}

        def set_state(self, state):
            self.count = state["count"]

    counting = Counting()
    counting.count = 7
    plain, arrays = checkpoint.callback_state(counting)
    fresh = Counting()
    checkpoint.restore_callback(fresh, plain, arrays)
    assert (fresh.count, arrays) == (7, {})


def test_what_keras_callbacks_remember_is_found():
    stopping = keras.callbacks.EarlyStopping(restore_best_weights=True)
    stopping.wait, stopping.best = 3, np.float32(0.5)
    stopping.best_weights = [np.arange(3.0), np.ones(())]
    plain, arrays = checkpoint.callback_state(stopping)
    fresh = keras.callbacks.EarlyStopping(restore_best_weights=True)
    checkpoint.restore_callback(fresh, plain, arrays)
    assert (fresh.wait, fresh.best) == (3, 0.5)
    np.testing.assert_array_equal(fresh.best_weights[0], np.arange(3.0))
    assert fresh.best_weights[1].shape == ()
