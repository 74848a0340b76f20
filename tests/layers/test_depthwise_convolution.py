"""The depthwise convolution and its fast paths, against its formula in NumPy."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer.layers import DepthwiseConvolution, fast_paths, operations
from keras_metaformer.layers.operations import depthwise_convolution
from tests import reverse_mode
from tests.layer_checks import to_float32
from tests.reference import formulas

BACKEND = keras.backend.backend()


@dataclasses.dataclass(frozen=True)
class Case:
    size: tuple[int, int]
    kernel_size: int
    channels: int = 4
    multiplier: int = 1
    strides: int = 1


CASES = {
    "small": Case((7, 5), 3),
    "multiplied-strided": Case((7, 5), 7, channels=3, multiplier=2, strides=2),
    "multiplied": Case((8, 8), 7, multiplier=2),
    "strided": Case((8, 6), 3, strides=2),
    "strided-by-3": Case((9, 7), 5, channels=2, strides=3),
    "kernel-larger-than-map": Case((2, 3), 7),
    "one-pixel": Case((1, 1), 7, multiplier=2, strides=2),
    "one-tap": Case((5, 4), 1, channels=3),
    "channels-padded-against-cache-conflicts": Case((6, 17), 7, channels=128),
    "rows-in-two-parts": Case((3, 70), 3),
    "rows-in-three-parts": Case((4, 131), 5, channels=2, multiplier=2, strides=2),
}
SEQUENCES = {
    "small": Case((9, 1), 3),
    "multiplied-strided": Case((70, 1), 7, channels=3, multiplier=2, strides=2),
    "kernel-longer-than-sequence": Case((2, 1), 5),
}


def reference_gradients(inputs, kernel, strides, gradient):
    """Of `sum(gradient * depthwise_convolution(inputs, kernel, strides))`."""
    size, _, channels, multiplier = kernel.shape
    half = size // 2
    _, height, width, _ = inputs.shape
    widths = ((0, 0), (half, half), (half, half), (0, 0))
    padded = np.pad(inputs.astype("float64"), widths)
    padded_gradient = np.zeros_like(padded)
    kernel_gradient = np.zeros(kernel.shape)
    gradient = gradient.reshape(*gradient.shape[:3], channels, multiplier)
    for i in range(gradient.shape[1]):
        for j in range(gradient.shape[2]):
            rows = slice(strides * i, strides * i + size)
            columns = slice(strides * j, strides * j + size)
            pixel = gradient[:, i, j].astype("float64")
            kernel_gradient += np.einsum(
                "buvc,bcn->uvcn", padded[:, rows, columns], pixel
            )
            padded_gradient[:, rows, columns] += np.einsum(
                "uvcn,bcn->buvc", kernel, pixel
            )
    inputs_gradient = padded_gradient[:, half : half + height, half : half + width]
    return inputs_gradient, kernel_gradient


def compiled(function):
    """The function as XLA compiles it; on torch, the function."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    return function


def with_gradients(strides):
    """`(inputs, kernel, gradient) -> (outputs, inputs' and kernel's gradient)`."""
    return reverse_mode.with_gradients(
        lambda inputs, kernel: depthwise_convolution(inputs, kernel, strides)
    )


def tensors(*arrays, dtype="float32"):
    return [keras.ops.convert_to_tensor(array, dtype) for array in arrays]


def make(size, kernel_size, channels, multiplier, strides, batch=2):
    random = np.random.default_rng(sum(size) + kernel_size)
    inputs = random.normal(size=(batch, *size, channels)).astype("float32")
    kernel = random.normal(size=(kernel_size, kernel_size, channels, multiplier))
    shape = (batch, *(-(-n // strides) for n in size), channels * multiplier)
    return inputs, kernel.astype("float32"), random.normal(size=shape).astype("float32")


def assert_near(actual, expected, relative):
    """Compares with the largest value, as rounding grows with that."""
    assert actual.shape == expected.shape
    error = np.abs(actual - expected).max()
    assert error <= relative * np.abs(expected).max()


@pytest.fixture(params=[True, False], ids=["fast", "plain"])
def fast(request):
    with fast_paths.switched(request.param):
        yield request.param


@pytest.fixture
def fast_calls(monkeypatch):
    """A list that grows each time that the fast path is taken."""
    backend: Any = operations._BACKEND
    calls = []
    original = backend.depthwise_convolution

    def counted(inputs, kernel, strides):
        outputs = original(inputs, kernel, strides)
        if outputs is not None:
            calls.append(strides)
        return outputs

    monkeypatch.setattr(backend, "depthwise_convolution", counted)
    return calls


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, mode, fast):
    case = CASES[name]
    inputs, kernel, gradient = make(**dataclasses.asdict(case))
    function = with_gradients(case.strides)
    if mode == "compiled":
        function = compiled(function)
    results = [to_float32(t) for t in function(*tensors(inputs, kernel, gradient))]
    expected = (
        formulas.depthwise_convolution(inputs, kernel, case.strides),
        *reference_gradients(inputs, kernel, case.strides, gradient),
    )
    for actual, wanted in zip(results, expected, strict=True):
        assert_near(actual, wanted, 2e-6)


@pytest.mark.parametrize("name", SEQUENCES)
def test_values_and_gradients_of_sequences(name, fast):
    """As of maps of width 1 and the middle columns of kernels."""
    case = SEQUENCES[name]
    inputs, kernel, gradient = make(**dataclasses.asdict(case))
    middle = case.kernel_size // 2
    column = np.where(np.arange(case.kernel_size)[:, None, None] == middle, kernel, 0)
    inputs_gradient, kernel_gradient = reference_gradients(
        inputs, column, case.strides, gradient
    )
    function = compiled(with_gradients(case.strides))
    arguments = tensors(inputs[:, :, 0], kernel[:, middle], gradient[:, :, 0])
    expected = (
        formulas.depthwise_convolution(inputs, column, case.strides)[:, :, 0],
        inputs_gradient[:, :, 0],
        kernel_gradient[:, middle],
    )
    for actual, wanted in zip(function(*arguments), expected, strict=True):
        assert_near(to_float32(actual), wanted, 2e-6)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_like_keras_operation(strides, multiplier, fast):
    inputs, kernel, _ = make((7, 5), 3, 4, multiplier, strides)
    padded = keras.ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = keras.ops.depthwise_conv(
        padded, kernel, strides=strides, padding="valid"
    )
    actual = compiled(lambda x, k: depthwise_convolution(x, k, strides))(
        *tensors(inputs, kernel)
    )
    assert_near(to_float32(actual), to_float32(expected), 1e-6)


@pytest.mark.parametrize("strides", [1, 2])
def test_gradients_like_finite_differences(strides, fast):
    inputs, kernel, gradient = make((6, 5), 5, 3, 2, strides)
    function = compiled(with_gradients(strides))
    results = [to_float32(t) for t in function(*tensors(inputs, kernel, gradient))]
    forward = compiled(lambda x, k: depthwise_convolution(x, k, strides))

    def loss(inputs, kernel):
        outputs = to_float32(forward(*tensors(inputs, kernel))).astype("float64")
        return np.sum(outputs * gradient)

    # Linear in each argument, so a large step makes no error and little rounding.
    step = 1.0
    for which, slope in ((0, results[1]), (1, results[2])):
        arguments = [inputs, kernel]
        for index in np.random.default_rng(which).integers(slope.size, size=12):
            delta = np.zeros(slope.size, "float32")
            delta[index] = step
            delta = delta.reshape(slope.shape)
            up, down = list(arguments), list(arguments)
            up[which] = arguments[which] + delta
            down[which] = arguments[which] - delta
            difference = (loss(*up) - loss(*down)) / (2 * step)
            actual = slope.reshape(-1)[index]
            assert abs(actual - difference) <= 1e-4 * np.abs(slope).max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("strides", [1, 2])
def test_half_precision(dtype, strides, fast):
    inputs, kernel, gradient = make((8, 7), 7, 4, 1, strides)
    # Rounded first, so that only the operation's own rounding is left.
    inputs, kernel, gradient = (
        to_float32(t) for t in tensors(inputs, kernel, gradient, dtype=dtype)
    )
    function = compiled(with_gradients(strides))
    results = function(*tensors(inputs, kernel, gradient, dtype=dtype))
    expected = (
        formulas.depthwise_convolution(inputs, kernel, strides),
        *reference_gradients(inputs, kernel, strides, gradient),
    )
    # Half a unit in the last place where sums are kept in float32.
    tolerance = {"float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    tolerance *= 1 if fast and BACKEND != "torch" else 8
    for actual, wanted in zip(results, expected, strict=True):
        assert keras.backend.standardize_dtype(actual.dtype) == dtype
        assert_near(to_float32(actual), wanted, tolerance)


def test_the_switch_chooses(fast_calls):
    inputs, kernel, _ = make((5, 5), 3, 4, 1, 1)
    for enabled in (True, False):
        fast_calls.clear()
        with fast_paths.switched(enabled):
            # A new function each time: compiled ones keep the form they have.
            compiled(lambda x, k: depthwise_convolution(x, k, 1))(
                *tensors(inputs, kernel)
            )
        assert len(fast_calls) == (enabled and _fast_here())


def _fast_here():
    if BACKEND == "jax":
        import jax

        return jax.default_backend() == "cpu"
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return not tf.config.list_physical_devices("GPU")
    return True


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's XLA")
def test_tensorflow_without_xla_uses_its_own_operation(fast_calls):
    import tensorflow as tf

    inputs, kernel, _ = make((5, 5), 3, 4, 1, 1)
    eager: Any = depthwise_convolution
    eager(*tensors(inputs, kernel), 1)
    compiled: Any = tf.function(lambda x, k: depthwise_convolution(x, k, 1))
    compiled(*tensors(inputs, kernel))
    assert fast_calls == []

    # A function within one that is compiled is compiled too.
    inner: Any = tf.function(lambda x, k: depthwise_convolution(x, k, 1))
    tf.function(lambda x, k: inner(x, k), jit_compile=True)(*tensors(inputs, kernel))
    assert len(fast_calls) == _fast_here()


def _program_of_xla(function, *arrays):
    """What XLA compiles a function of arrays to."""
    if BACKEND == "jax":
        import jax

        return jax.jit(function).lower(*arrays).compile().as_text()
    import tensorflow as tf

    compiled: Any = tf.function(function, jit_compile=True)
    return compiled.experimental_get_compiler_ir(*tensors(*arrays))("optimized_hlo")


@pytest.mark.skipif(BACKEND == "torch", reason="about what XLA makes of programs")
def test_the_sum_of_shifted_maps_is_one_loop_and_its_gradients_are_two():
    if BACKEND == "jax":
        import jax

        if jax.default_backend() != "cpu":
            pytest.skip("the sum is for CPUs")
    inputs, kernel, gradient = make((14, 14), 7, 16, 1, 1)
    programs = {}
    for enabled in (True, False):
        with fast_paths.switched(enabled):
            # Functions of their own, as compiled ones are kept.
            programs[enabled] = (
                _program_of_xla(
                    lambda x, k: depthwise_convolution(x, k, 1), inputs, kernel
                ),
                _program_of_xla(
                    lambda x, k, g: with_gradients(1)(x, k, g)[1:],
                    *(inputs, kernel, gradient),
                ),
            )
    for program in programs[False]:
        assert "convolution(" in program
    forward, backward = programs[True]
    assert "convolution(" not in forward + backward
    main = forward[forward.index("ENTRY") :]
    assert 1 <= main.count(" fusion(") <= 2  # The padding, and the sum.
    # The kernel's gradient: a loop over the rows, which XLA has not written out.
    assert forward.count(" while(") == 0 and backward.count(" while(") == 1


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_unknown_sizes(strides, multiplier, fast):
    inputs = keras.Input((None, None, 4))
    layer = DepthwiseConvolution(3, strides=strides, depth_multiplier=multiplier)
    model: Any = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 4 * multiplier)
    kernel = to_float32(layer.kernel)
    for size, batch in (((7, 5), 2), ((4, 9), 3)):
        images, _, _ = make(size, 3, 4, multiplier, strides, batch)
        outputs = model.predict(images, verbose=0)
        assert_near(
            outputs, formulas.depthwise_convolution(images, kernel, strides), 2e-6
        )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's signatures")
@pytest.mark.parametrize("size", [(7, 5), (3, 17)])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("known", ["nothing", "height and width"])
def test_unknown_sizes_under_tensorflow_xla(size, strides, known, fast_calls):
    import tensorflow as tf

    inputs, kernel, gradient = make(size, 3, 4, 1, strides)
    outer, inner = (
        ((None, None), (None, None))
        if known == "nothing"
        else (inputs.shape[1:3], gradient.shape[1:3])
    )
    signature = [
        tf.TensorSpec((None, *outer, 4)),
        tf.TensorSpec(kernel.shape),
        tf.TensorSpec((None, *inner, 4)),
    ]
    function = tf.function(
        with_gradients(strides), jit_compile=True, input_signature=signature
    )
    results = function(*tensors(inputs, kernel, gradient))
    assert len(fast_calls) == _fast_here()
    expected = (
        formulas.depthwise_convolution(inputs, kernel, strides),
        *reference_gradients(inputs, kernel, strides, gradient),
    )
    for actual, wanted in zip(results, expected, strict=True):
        assert_near(to_float32(actual), wanted, 2e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="about JAX's symbolic shapes")
@pytest.mark.parametrize("strides", [1, 2])
def test_symbolic_shapes_of_jax(strides, fast):
    import jax
    from jax import export

    inputs, kernel, _ = make((7, 5), 3, 4, 1, strides)
    shape = export.symbolic_shape("b, h, w, 4")
    specs = (
        jax.ShapeDtypeStruct(shape, "float32"),
        jax.ShapeDtypeStruct(kernel.shape, "float32"),
    )
    function = jax.jit(lambda x, k: depthwise_convolution(x, k, strides))
    exported = export.export(function)(*specs)
    outputs = exported.call(inputs, kernel)
    assert_near(
        np.asarray(outputs),
        formulas.depthwise_convolution(inputs, kernel, strides),
        2e-6,
    )


def test_mixed_precision(fast):
    inputs, _, _ = make((7, 5), 7, 4, 1, 1)
    layer = DepthwiseConvolution(7, use_bias=True, dtype="mixed_bfloat16")
    outputs = layer(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(layer.kernel.dtype) == "float32"
    kernel = to_float32(layer.kernel)
    assert_near(
        to_float32(outputs), formulas.depthwise_convolution(inputs, kernel, 1), 2e-2
    )


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_training_is_the_same(dtype):
    inputs, _, _ = make((9, 8), 7, 4, 1, 1, batch=8)
    targets = np.random.default_rng(3).normal(size=(8, 5, 4, 8)).astype("float32")
    weights = []
    for enabled in (True, False):
        with fast_paths.switched(enabled):
            keras.utils.set_random_seed(7)
            model: Any = keras.Sequential(
                [
                    keras.Input((9, 8, 4)),
                    DepthwiseConvolution(7, use_bias=True, dtype=dtype),
                    DepthwiseConvolution(3, 2, depth_multiplier=2, dtype=dtype),
                ]
            )
            before = [to_float32(w) for w in model.weights]
            # torch.compile takes a compiler and a minute.
            model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
            model.fit(inputs, targets, batch_size=4, epochs=2, verbose=0)
            after = [to_float32(w) for w in model.weights]
        weights.append([b - a for a, b in zip(before, after, strict=True)])
    relative = 1e-4 if dtype == "float32" else 5e-2
    for fast_change, plain_change in zip(*weights, strict=True):
        assert np.abs(plain_change).max() > 0
        assert_near(fast_change, plain_change, relative)


def test_output_shape_and_bias(fast):
    layer = DepthwiseConvolution(3, strides=2, depth_multiplier=2, use_bias=True)
    inputs, _, _ = make((7, 5), 3, 4, 2, 2)
    layer.build(inputs.shape)
    layer.bias.assign(np.arange(8, dtype="float32"))
    outputs = layer(inputs)
    assert tuple(outputs.shape) == layer.compute_output_shape(inputs.shape)
    assert layer.compute_output_shape((None, None, 5, 4)) == (None, None, 3, 8)
    kernel = to_float32(layer.kernel)
    assert_near(
        to_float32(outputs),
        formulas.depthwise_convolution(inputs, kernel, 2) + np.arange(8),
        2e-6,
    )


@pytest.mark.parametrize("size", [0, 2, -3])
def test_bad_kernel_sizes_are_refused(size):
    with pytest.raises(ValueError, match=f"Received: kernel_size={size}"):
        DepthwiseConvolution(size)
