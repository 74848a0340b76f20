"""`run_layer_test`: what every layer of the package must be able to do."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_metaformer.layers.configured_layer import ConfiguredLayer, arguments_of

#: Layers whose weights' start values matter are compared after `randomize`.
Reference = Callable[[Any, np.ndarray], np.ndarray]


def randomize(layer: keras.layers.Layer, seed: int = 0) -> None:
    """Give every weight values for which activations stay of moderate size.

    Scales lie around one and offsets around zero, none at its neutral value, so that
    no term can be missing unnoticed.
    """
    generator = np.random.default_rng(seed)
    for weight in layer.weights:
        shape = tuple(weight.shape)
        signed = generator.uniform(-1.0, 1.0, shape)
        if weight.name == "moving_variance":
            value = 1.0 + 0.5 * signed
        elif weight.name in ("gamma", "scale"):
            value = 1.0 + 0.25 * signed
        elif len(shape) >= 2:
            # A depthwise kernel (height, width, channels, multiplier) sums over
            # height and width only.
            depthwise = len(shape) == 4 and "depthwise" in weight.path
            fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
            value = signed * np.sqrt(3.0 / fan_in)
        else:
            value = 0.25 * signed
        weight.assign(value.astype("float32"))


def to_numpy(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def to_float32(tensor: Any) -> np.ndarray:
    """Of a tensor of any float dtype."""
    return to_numpy(keras.ops.cast(tensor, "float32"))


def kernel_of(layer: Any) -> np.ndarray:
    """In float64, for the formulas."""
    return to_numpy(layer.kernel).astype("float64")


def run_layer_test(
    make: Callable[..., keras.layers.Layer],
    input_shape: Sequence[int],
    directory: Path,
    *,
    trainable: int = 0,
    frozen: int = 0,
    output_shape: Sequence[int] | None = None,
    reference: Reference | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Check a layer from construction to the saved file.

    Args:
        make: makes the layer anew; takes `dtype`.
        input_shape: with the batch.
        directory: for the saved model.
        trainable: expected number of trainable weights.
        frozen: expected number of weights that training leaves alone by gradient.
        output_shape: with the batch, or None for the input's.
        reference: `(layer, inputs in float64) -> outputs`, in NumPy.
        tolerance: of the largest output, against the reference.
    """
    inputs = _inputs(input_shape)
    output_shape = tuple(output_shape or input_shape)
    _check_config(make, input_shape)
    _check_calls(make, inputs, output_shape, trainable, frozen)
    if reference is not None:
        check_reference(make, input_shape, reference, tolerance)
    _check_training(make, inputs)
    for policy in ("mixed_float16", "mixed_bfloat16"):
        _check_mixed_precision(make, inputs, policy)
    _check_saving(make, inputs, directory)


def _inputs(shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng(7).normal(size=shape).astype("float32")


def check_reference(
    make: Callable[..., keras.layers.Layer],
    input_shape: Sequence[int],
    reference: Reference,
    tolerance: float = 1e-5,
) -> None:
    """Compare a layer with its formula; arguments as in `run_layer_test`."""
    inputs = _inputs(input_shape)
    layer = make()
    layer.build(inputs.shape)
    randomize(layer)
    expected = reference(layer, inputs.astype("float64"))
    actual = to_numpy(layer(inputs, training=False))
    assert expected.shape == actual.shape
    limit = tolerance * max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=limit)


def _config_text(layer: keras.layers.Layer) -> str:
    """The whole configuration as JSON, names left out: they are numbered."""

    def without_names(value):
        if isinstance(value, dict):
            if value.get("axis") == [-1]:  # Keras' LayerNormalization, once built.
                value = {**value, "axis": -1}
            return {
                key: without_names(item)
                for key, item in value.items()
                if key not in ("name", "build_config")
            }
        if isinstance(value, (list, tuple)):
            return [without_names(item) for item in value]
        return value

    serialized = keras.saving.serialize_keras_object(layer)
    return json.dumps(without_names(serialized), sort_keys=True)


def _check_config(make, input_shape) -> None:
    layer = make(name="checked")
    names = [
        name
        for name in inspect.signature(type(layer).__init__).parameters
        if name not in ("self", "kwargs") and hasattr(layer, name)
    ]
    if isinstance(layer, ConfiguredLayer):
        arguments = arguments_of(type(layer), ConfiguredLayer)
        assert set(arguments) - {"parts"} <= layer.get_config().keys()
    before = {name: getattr(layer, name) for name in names}
    text = _config_text(layer)

    again = type(layer).from_config(layer.get_config())
    assert type(again) is type(layer)
    assert again.name == "checked"
    assert _config_text(again) == text
    deserialized: Any = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    )
    assert _config_text(deserialized) == text

    layer.build(tuple(input_shape))
    assert layer.built
    for name, value in before.items():
        assert getattr(layer, name) is value, f"building changed {name}"
    assert _config_text(layer) == text


def _check_calls(make, inputs, output_shape, trainable, frozen) -> None:
    layer = make()
    outputs = layer(inputs)
    assert tuple(outputs.shape) == output_shape
    assert len(layer.trainable_weights) == trainable
    assert len(layer.non_trainable_weights) == frozen
    assert tuple(layer.compute_output_shape(inputs.shape)) == output_shape
    any_batch = layer.compute_output_shape((None, *inputs.shape[1:]))
    assert tuple(any_batch) == (None, *output_shape[1:])

    image = keras.Input(inputs.shape[1:])
    symbolic = layer(image)
    assert tuple(symbolic.shape) == (None, *output_shape[1:])
    assert symbolic.dtype == "float32"
    compiled = keras.Model(image, symbolic).predict(inputs, verbose=0)
    np.testing.assert_allclose(
        compiled, to_numpy(layer(inputs, training=False)), rtol=1e-5, atol=1e-5
    )


def _check_training(make, inputs) -> None:
    layer = make()
    image = keras.Input(inputs.shape[1:])
    # The layer in front gives a gradient something to reach where the checked one has
    # no weights, and shows that it lets gradients through.
    head = keras.layers.Dense(inputs.shape[-1], use_bias=False)
    model = keras.Model(image, layer(head(image)))
    randomize(model)
    targets = np.random.default_rng(8).normal(size=tuple(model.output_shape[1:]))
    targets = np.broadcast_to(targets, (len(inputs), *targets.shape))
    before = [to_numpy(weight) for weight in model.weights]
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
    history = model.fit(inputs, targets, batch_size=len(inputs), verbose=0)

    assert np.isfinite(history.history["loss"]).all()
    frozen = {
        id(weight)
        for weight in model.non_trainable_weights
        if weight.name not in ("moving_mean", "moving_variance")
    }
    for weight, old in zip(model.weights, before, strict=True):
        new = to_numpy(weight)
        assert np.isfinite(new).all(), weight.path
        if id(weight) in frozen:
            np.testing.assert_array_equal(new, old, weight.path)
        else:
            assert not np.array_equal(new, old), f"{weight.path} was not trained"


def _check_mixed_precision(make, inputs, policy) -> None:
    layer = make(dtype=policy)
    outputs = layer(inputs)
    compute = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    assert all(weight.dtype == "float32" for weight in layer.weights)
    values = to_numpy(keras.ops.cast(outputs, "float32"))
    assert np.isfinite(values).all()

    exact = make()
    exact.build(inputs.shape)
    exact.set_weights(layer.get_weights())
    expected = to_numpy(exact(inputs))
    # bfloat16 keeps eight bits.
    np.testing.assert_allclose(
        values, expected, rtol=0, atol=0.05 * max(1.0, np.abs(expected).max())
    )


def _check_saving(make, inputs, directory) -> None:
    image = keras.Input(inputs.shape[1:])
    model = keras.Model(image, make()(image))
    randomize(model, seed=3)
    path = directory / "layer.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    assert [weight.shape for weight in loaded.weights] == [
        weight.shape for weight in model.weights
    ]
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))
    np.testing.assert_array_equal(
        to_numpy(model(inputs, training=False)),
        to_numpy(loaded(inputs, training=False)),
    )
