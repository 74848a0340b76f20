"""The moving average of weights: its values, in model.fit, and swapped in."""

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from tests.training import traces
from tests.training.fitting import SILENT, batches, small_model


class _Weights(keras.layers.Layer):
    """A layer of nothing but one matrix."""

    def build(self, input_shape):
        self.matrix = self.add_weight(
            shape=(2, 3), name="matrix", dtype=self.variable_dtype
        )

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_averages_are_the_recorded_ones(dtype):
    weights, averages = traces.ARRAYS["ema/weights"], traces.ARRAYS["ema/averages"]
    layer = _Weights(dtype=dtype)
    model = keras.Sequential([keras.Input((1,)), layer])
    layer.matrix.assign(weights[0])
    average = km.training.WeightAverage(model, traces.FACTS["ema"]["decay"])
    held = average.get()[0].dtype  # JAX makes float32 of float64
    np.testing.assert_array_equal(average.get()[0], weights[0].astype(held))
    for value, expected in zip(weights[1:], averages, strict=True):
        layer.matrix.assign(value)
        average.update()
        np.testing.assert_allclose(
            average.get()[0], expected, rtol=8 * np.finfo(held).eps
        )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_in_fit_it_moves_once_an_update_and_takes_in_all_weights(accumulate):
    model = small_model(batch_norm=True)
    model.compile(
        km.training.AdamW(0.05, gradient_accumulation_steps=accumulate),
        "categorical_crossentropy",
    )
    average = km.training.WeightAverage(model, 0.75)
    names = [weight.path for weight in model.weights]
    assert any("moving_mean" in name for name in names)
    expected = [to_numpy(w) for w in model.weights]
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            seen.append([to_numpy(w) for w in model.weights])

    images, targets = batches(6)
    model.fit(
        images,
        targets,
        batch_size=8,
        shuffle=False,
        verbose=SILENT,
        callbacks=[km.training.AverageWeights(average), Watch()],
    )
    assert len(seen) == 6
    for weights in seen[accumulate - 1 :: accumulate]:
        expected = [a * 0.75 + w * 0.25 for a, w in zip(expected, weights, strict=True)]
    for name, got, wanted in zip(names, average.get(), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_model_gets_its_own_weights_back_bit_for_bit():
    model = small_model(batch_norm=True)
    model.compile("sgd", "categorical_crossentropy")
    average = km.training.WeightAverage(model, 0.5)
    images, targets = batches(2)
    for weight in model.weights:
        weight.assign(weight + 0.1)
    own = model.get_weights()
    raw_loss = model.evaluate(images, targets, verbose=SILENT)
    with average.applied():
        for got, wanted in zip(model.get_weights(), average.get(), strict=True):
            np.testing.assert_array_equal(got, wanted)
        # JAX donates the arrays of weights to `evaluate`.
        first = model.evaluate(images, targets, verbose=SILENT)
        assert model.evaluate(images, targets, verbose=SILENT) == first != raw_loss
        with pytest.raises(RuntimeError, match="cannot move"):
            average.update()
        with pytest.raises(RuntimeError, match="already"), average.applied():
            pass
    for got, wanted in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert model.evaluate(images, targets, verbose=SILENT) == raw_loss
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    for got, wanted in zip(model.get_weights(), own, strict=True):
        np.testing.assert_array_equal(got, wanted)
    average.update()  # and goes on


def test_it_is_saved_and_restored_as_arrays():
    model = small_model()
    average = km.training.WeightAverage(model, 0.5)
    for weight in model.weights:
        weight.assign(weight + 1.0)
    average.update()
    saved = average.get()
    kept = [array.copy() for array in saved]
    other = km.training.WeightAverage(model, 0.5)
    other.set(saved)
    average.update()
    other.update()
    for got, wanted in zip(other.get(), average.get(), strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert not np.array_equal(average.get()[0], kept[0])
    for got, wanted in zip(saved, kept, strict=True):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(ValueError, match="Received: 1 arrays"):
        other.set(saved[:1])
    with pytest.raises(ValueError, match=r"kernel: \(4, 4, 3, 8\), not \(1,\)"):
        other.set([np.zeros(1), *saved[1:]])


def test_what_cannot_be_averaged_is_an_error():
    with pytest.raises(ValueError, match="decay=1"):
        km.training.WeightAverage(small_model(), 1)
    with pytest.raises(ValueError, match="must be built"):
        km.training.WeightAverage(keras.Sequential([keras.layers.Dense(2)]), 0.9)
