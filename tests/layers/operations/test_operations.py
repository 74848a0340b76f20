"""Every fast operation against the plain one: values, gradients, half precision."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_metaformer import layers
from keras_metaformer.blocks import Downsampling, ResidualBranch
from keras_metaformer.layers import fast_paths, operations
from tests.layer_checks import to_float32
from tests.reference import formulas
from tests.reverse_mode import with_gradients
from tests.small_models import metaformer

BACKEND = keras.backend.backend()
MAP = (2, 6, 5, 8)


def _numbers(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype("float32") for shape in shapes]


def _plain_image_norm(inputs, scale, bias):
    # The formula: where it is not fast, Keras' own layer is called.
    centred = inputs - keras.ops.mean(inputs, axis=(1, 2, 3), keepdims=True)
    variance = keras.ops.mean(centred**2, axis=(1, 2, 3), keepdims=True)
    return centred * keras.ops.rsqrt(variance + 1e-6) * scale + bias


def _plain_layer_norm(inputs, scale, bias):
    centred = inputs - keras.ops.mean(inputs, axis=-1, keepdims=True)
    variance = keras.ops.mean(centred**2, axis=-1, keepdims=True)
    return centred * keras.ops.rsqrt(variance + 1e-6) * scale + bias


def _plain_convolution(inputs, kernel, bias):
    padded = keras.ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return keras.ops.conv(padded, kernel, 2, "valid") + bias


# name: function, shapes of its tensors, shape of its outputs, the plain form if the
# function has none.
OPERATIONS: dict[str, tuple[Any, list[tuple[int, ...]], tuple[int, ...], Any]] = {
    "star_relu": (operations.star_relu, [MAP, (1,), (1,)], MAP, None),
    "squared_relu": (operations.squared_relu, [MAP], MAP, None),
    "residual_sum": (operations.residual_sum, [MAP, (8,), MAP], MAP, None),
    "attention": (operations.attention, [(2, 9, 3, 4)] * 3, (2, 9, 3, 4), None),
    "average_pool": (
        lambda inputs: operations.average_pool(inputs, 3),
        [MAP],
        MAP,
        None,
    ),
    "convolution": (
        lambda x, kernel, bias: operations.convolution(x, kernel, bias, 2, 1),
        [MAP, (3, 3, 8, 4), (4,)],
        (2, 3, 3, 4),
        _plain_convolution,
    ),
    "image_norm": (
        lambda x, scale, bias: operations.image_norm(x, scale, bias, 1e-6),
        [MAP, (8,), (8,)],
        MAP,
        _plain_image_norm,
    ),
    "layer_norm": (
        lambda x, scale, bias: operations.layer_norm(x, scale, bias, 1e-6),
        [MAP, (8,), (8,)],
        MAP,
        _plain_layer_norm,
    ),
    "dense": (operations.dense, [MAP, (8, 4), (4,)], (*MAP[:-1], 4), None),
    "gradient_barrier": (operations.gradient_barrier, [MAP], MAP, None),
}
FAST = {
    "torch": set(OPERATIONS) - {"gradient_barrier"},
    "tensorflow": {
        *("star_relu", "layer_norm", "image_norm", "dense", "attention"),
    },
    "jax": {"star_relu", "gradient_barrier"},
}[BACKEND]
#: On TensorFlow: fast in the graphs of functions, and not there otherwise.
IN_GRAPHS = {"layer_norm"} if BACKEND == "tensorflow" else set()
FLOAT32_ALONE = {"layer_norm", "image_norm"} if BACKEND == "tensorflow" else set()


@pytest.fixture
def as_with_one_dnn(monkeypatch):
    """The forms that are taken where oneDNN is on, on any machine."""
    if BACKEND == "tensorflow":
        module: Any = operations._BACKEND
        for choice in ("_has_one_dnn", "_has_one_dnn_norm"):
            monkeypatch.setattr(module, choice, lambda: True)


def _in_dtype(dtype: str, *shapes: tuple[int, ...]) -> list[Any]:
    return [keras.ops.convert_to_tensor(array, dtype) for array in _numbers(*shapes)]


def _as_graph(function: Any, **arguments: Any) -> Any:
    import tensorflow as tf

    return tf.function(function, **arguments)


def _assert_near(actual: Any, expected: Any, relative: float) -> None:
    actual, expected = to_float32(actual), to_float32(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= relative * np.abs(expected).max()


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_backend_has_the_ones_that_it_is_said_to_have(name):
    assert hasattr(operations._BACKEND, name) == (name in FAST)
    with fast_paths.switched(False):
        assert operations._fast(name, keras.ops.ones(MAP)) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", sorted(FAST))
@pytest.mark.usefixtures("as_with_one_dnn")
def test_values_and_gradients_are_those_of_the_plain_form(name, dtype):
    function, shapes, output_shape, plain = OPERATIONS[name]
    if name in FLOAT32_ALONE and dtype != "float32":
        assert function(*_in_dtype(dtype, *shapes)) is None
        return
    *tensors, gradient = _in_dtype(dtype, *shapes, output_shape)
    compute = with_gradients(function)
    if name in IN_GRAPHS:
        compute = _as_graph(compute)
    fast = compute(*tensors, gradient)
    # The plain form in float32, on the numbers as the dtype holds them.
    exact = [keras.ops.cast(tensor, "float32") for tensor in (*tensors, gradient)]
    with fast_paths.switched(False):
        expected = with_gradients(plain or function)(*exact)
    tolerance = {"float32": 3e-6, "bfloat16": 2e-2, "float16": 3e-3}[dtype]
    for actual, reference in zip(fast, expected, strict=True):
        assert keras.backend.standardize_dtype(actual.dtype) == dtype
        _assert_near(actual, reference, tolerance)


@pytest.mark.parametrize("fast", [True, False])
def test_star_relu_like_its_formula(fast):
    inputs, scale, bias = _numbers(MAP, (1,), (1,))
    with fast_paths.switched(fast):
        tensors: Any = map(keras.ops.convert_to_tensor, (inputs, scale, bias))
        outputs = operations.star_relu(*tensors)
    _assert_near(outputs, formulas.star_relu(inputs, scale, bias), 1e-6)


@pytest.mark.parametrize("fast", [True, False])
def test_gradient_of_star_relu_like_finite_differences(fast):
    tensors = _numbers(MAP, (1,), (1,), MAP)
    with fast_paths.switched(fast):
        _, *gradients = with_gradients(operations.star_relu)(
            *map(keras.ops.convert_to_tensor, tensors)
        )
    *exact, weights = (array.astype("float64") for array in tensors)
    for index, (array, gradient) in enumerate(zip(exact, gradients, strict=True)):
        step = np.zeros_like(array)
        flat = np.ravel_multi_index([size // 2 for size in array.shape], array.shape)
        step.flat[flat] = 1e-4
        moved = []
        for sign in (1, -1):
            arrays: Any = [*exact]
            arrays[index] = array + sign * step
            moved.append(formulas.star_relu(*arrays))
        difference = ((moved[0] - moved[1]) * weights).sum() / 2e-4
        assert to_float32(gradient).flat[flat] == pytest.approx(difference, rel=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        layers.StarReLU,
        lambda: layers.StarReLU(learn_scale=False),
        lambda: layers.StarReLU(learn_bias=False),
        layers.PoolingMixer,
        layers.ImageNormalization,
        lambda: layers.ImageNormalization(center=False),
        lambda: layers.ImageNormalization(scale=False),
        lambda: layers.SelfAttentionMixer(4),
        lambda: Downsampling(8, 3, 1, 1),
        lambda: Downsampling(8, 1, 1, 0, use_bias=False),
        lambda: ResidualBranch(
            layers.IdentityMixer(), layers.LayerScale(0.5), "residual"
        ),
        lambda: ResidualBranch(
            layers.IdentityMixer(), layers.LayerScale(0.5), "branch"
        ),
    ],
)
def test_training_a_layer_is_the_same_on_and_off(make):
    inputs, targets = _numbers((4, 6, 5, 8), (4, 6, 5, 8), seed=1)
    weights = []
    for on in (True, False):
        keras.utils.set_random_seed(0)
        with fast_paths.switched(on):
            model = keras.Sequential(
                [keras.Input((6, 5, 8)), keras.layers.Dense(8), make()]
            )
            model.compile(keras.optimizers.SGD(1.0), "mse")
            before = model.get_weights()
            model.train_on_batch(inputs, targets)
            weights.append(model.get_weights())
    assert any(
        np.abs(a - b).max() > 1e-5 for a, b in zip(weights[0], before, strict=True)
    )
    for fast, plain in zip(*weights, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch's graph of saved tensors")
def test_star_relu_keeps_one_map_for_its_gradient():
    import torch

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tuple(tensor.shape)) or tensor, lambda tensor: tensor
    ):
        inputs = torch.ones(MAP, requires_grad=True)
        operations.star_relu(inputs, torch.ones(1), torch.zeros(1))
    assert kept.count(MAP) == 1


@pytest.mark.skipif(BACKEND != "jax", reason="about what JAX keeps for gradients")
def test_star_relu_keeps_one_map_and_has_all_derivatives_on_jax():
    import jax

    inputs, scale, bias = (np.ones(shape, "float32") for shape in (MAP, (1,), (1,)))
    _, backward = jax.vjp(operations.star_relu, inputs, scale, bias)
    kept = [leaf.shape for leaf in jax.tree.leaves(backward) if hasattr(leaf, "shape")]
    assert kept.count(MAP) == 1

    def total(scale):
        return operations.star_relu(inputs, scale, bias).sum()

    np.testing.assert_allclose(jax.jvp(total, (scale,), (scale,))[1], inputs.size)
    assert jax.hessian(total)(scale).shape == (1, 1)


@pytest.mark.skipif(BACKEND != "jax", reason="about what XLA makes of JAX's gradients")
def test_a_gradient_barrier_puts_the_gradient_alone_into_memory():
    import jax

    if jax.default_backend() != "cpu":
        pytest.skip("the barrier is for CPUs")
    layer = layers.SeparableConvolutionMixer()
    (inputs,) = _numbers(MAP)
    layer(inputs)
    states = [variable.value for variable in layer.trainable_variables]

    def total(states):
        return (layer.stateless_call(states, [], inputs)[0] ** 2).sum()

    loops = []
    for on in (True, False):
        with fast_paths.switched(on):
            for function in (total, jax.grad(total)):
                # A function of its own, as compiled ones are kept.
                compiled = jax.jit(lambda states, f=function: f(states))
                text = compiled.lower(states).compile().as_text()
                loops.append(text.count(" while("))
    forward, gradient, plain_forward, plain_gradient = loops
    assert forward == plain_forward == 0
    assert gradient >= plain_gradient + 2  # One for each of the dense layers.
    # An infinite or missing number changes nothing, and derivatives of any kind work.
    for number in (1.0, np.inf, np.nan):
        weights = np.full(MAP, number, "float32")
        _, backward = jax.vjp(operations.gradient_barrier, inputs)
        np.testing.assert_array_equal(backward(weights)[0], weights)
    np.testing.assert_array_equal(
        jax.jvp(operations.gradient_barrier, (inputs,), (inputs,))[1], inputs
    )


@pytest.mark.parametrize("shared", [True, False])
def test_star_relu_overwrites_only_what_it_may(shared):
    inputs, scale, bias = _numbers(MAP, (1,), (1,))
    layer = layers.StarReLU((float(scale[0]), float(bias[0])))
    tensor = keras.ops.convert_to_tensor(inputs.copy())
    outputs = layer(tensor) if shared else layer(tensor, overwrite=True)
    _assert_near(outputs, formulas.star_relu(inputs, scale, bias), 1e-6)
    if shared:
        np.testing.assert_array_equal(to_float32(tensor), inputs)


@pytest.mark.skipif(BACKEND != "torch", reason="the others see it by themselves")
@pytest.mark.parametrize(
    "function",
    [
        layers.StarReLU(),
        layers.SquaredReLU(),
        lambda x, **kw: operations.residual_sum(keras.ops.ones(MAP), None, x, **kw),
        lambda x, **kw: operations.residual_sum(
            keras.ops.ones(MAP), keras.ops.ones(8), x, **kw
        ),
    ],
    ids=["StarReLU", "SquaredReLU", "sum", "scaled-sum"],
)
def test_no_new_memory_is_taken_without_gradients(function):
    import torch

    def takes_its_memory(**arguments):
        tensor: Any = keras.ops.ones(MAP)
        return function(tensor, **arguments).data_ptr() == tensor.data_ptr()

    with torch.no_grad():
        assert takes_its_memory(overwrite=True)
        assert not takes_its_memory()
    assert not takes_its_memory(overwrite=True)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch's kernels for GPUs")
def test_pooling_with_gradients_is_left_to_keras_on_gpus(monkeypatch):
    import torch

    inputs = keras.ops.ones(MAP)
    module: Any = operations._BACKEND
    assert module.average_pool(inputs, 3) is not None
    monkeypatch.setattr(module, "_on_cpu", lambda tensor: False)
    assert module.average_pool(inputs, 3) is None
    with torch.no_grad():
        assert module.average_pool(inputs, 3) is not None


@pytest.fixture
def products_of_one_dnn(monkeypatch):
    """As where torch's oneDNN is the faster; a list that counts its products."""
    import torch

    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of torch is without oneDNN's product")
    module: Any = operations._BACKEND
    calls: list[tuple[int, ...]] = []
    run = module._run_one_dnn_product

    def counted(inputs, kernel, bias):
        calls.append(tuple(inputs.shape))
        return run(inputs, kernel, bias)

    monkeypatch.setattr(module, "_prefers_one_dnn", lambda: True)
    monkeypatch.setattr(module, "_ONE_DNN_PAYS_FROM", 1)
    monkeypatch.setattr(module, "_run_one_dnn_product", counted)
    return calls


@pytest.mark.skipif(BACKEND != "torch", reason="about torch's products")
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 8), (2, 7, 8), MAP])
def test_products_of_one_dnn(shape, with_bias, products_of_one_dnn):
    import torch

    inputs, kernel, bias = _in_dtype("float32", shape, (8, 5), (5,))
    bias = bias if with_bias else None
    expected = torch.matmul(inputs, kernel) + (0 if bias is None else bias)
    # Of any strides.
    apart = torch.stack([inputs, inputs], dim=-1)[..., 0]
    with torch.no_grad():
        for given in (inputs, apart):
            outputs = operations.dense(given, kernel, bias)
            assert outputs.is_contiguous()
            _assert_near(outputs, expected, 1e-6)
        assert products_of_one_dnn == [shape, shape]
        # A single row is a sum of rows.
        operations.dense(inputs.reshape(-1, 8)[:1], kernel, bias)
        operations.dense(inputs.bfloat16(), kernel.bfloat16(), None)
    operations.dense(inputs, kernel.requires_grad_(), bias)
    assert len(products_of_one_dnn) == 2


@pytest.mark.skipif(BACKEND != "torch", reason="about torch's products")
def test_products_of_one_dnn_are_for_plain_calls(products_of_one_dnn):
    import torch

    inputs, kernel = _in_dtype("float32", (4, 3, 8), (8, 5))
    layer: Any = metaformer("self_attention", input_shape=(32, 32, 3))
    images = torch.zeros((1, 32, 32, 3))

    def product(each):
        return operations.dense(each, kernel, None)

    with torch.no_grad():
        expected = product(inputs)
        assert products_of_one_dnn
        products_of_one_dnn.clear()
        _assert_near(torch.vmap(product)(inputs), expected, 1e-6)
        of_kernels = torch.vmap(lambda kernel: operations.dense(inputs, kernel, None))
        _assert_near(of_kernels(kernel[None])[0], expected, 1e-6)
        outputs: Any = torch.func.jvp(product, (inputs,), (inputs,))
        _assert_near(outputs[1], expected, 1e-6)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(inputs, inputs)
            outputs = torch.autograd.forward_ad.unpack_dual(product(dual))
            _assert_near(outputs.tangent, expected, 1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            assert product(inputs).dtype == torch.bfloat16
        program = torch.export.export(layer, (images,), strict=False)
        traced: Any = torch.jit.trace(product, inputs, check_trace=False)
    assert not products_of_one_dnn
    assert "mkldnn" not in str(traced.graph)
    assert not {"mkldnn", "keras_metaformer"} & {
        node.target.namespace
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }


@pytest.mark.skipif(BACKEND != "torch", reason="about torch.compile")
def test_products_of_one_dnn_are_compiled(products_of_one_dnn):
    import torch

    model: Any = metaformer("separable_convolution", input_shape=(32, 32, 3))
    images = torch.from_numpy(_numbers((2, 32, 32, 3))[0])
    with torch.no_grad():
        with fast_paths.switched(False):
            expected = model(images)
        torch._dynamo.reset()
        outputs = torch.compile(model, fullgraph=True)(images)
    _assert_near(outputs, expected, 1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch.compile")
@pytest.mark.usefixtures("products_of_one_dnn")
def test_compiled_products_are_for_plain_calls_too():
    import torch

    inputs, kernel = _in_dtype("float32", (4, 3, 8), (8, 5))
    graphs = []

    def backend(module, _):
        graphs.append(str(module.graph))
        return module

    def compiled(call):
        torch._dynamo.reset()
        return torch.compile(call, backend=backend, fullgraph=True)

    def product(each):
        return operations.dense(each, kernel, None)

    def derivative(each):
        return torch.func.jvp(product, (each,), (each,))[1]

    with torch.no_grad():
        expected = torch.matmul(inputs, kernel)
        _assert_near(compiled(derivative)(inputs), expected, 1e-6)
        with torch.autocast("cpu", torch.bfloat16):
            assert compiled(product)(inputs).dtype == torch.bfloat16
        # Rows that only the run tells the number of.
        is_chosen = torch.tensor([True, False, True, True])
        chosen = compiled(lambda x, mask: product(x[mask]))(inputs, is_chosen)
        _assert_near(chosen, expected[is_chosen], 1e-6)
        assert len(graphs) == 3
        assert not any("keras_metaformer" in graph for graph in graphs)
        _assert_near(compiled(product)(inputs), expected, 1e-6)
    assert "keras_metaformer" in graphs[-1]
    batch = torch.export.Dim("batch")
    module: Any = torch.nn.Identity()
    module.forward = product
    with torch.no_grad():
        program = torch.export.export(module, (inputs,), dynamic_shapes=[{0: batch}])
    _assert_near(program.module()(inputs[:2]), expected[:2], 1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch's function transforms")
@pytest.mark.parametrize("scaling", ["none", "residual"])
def test_residual_sums_under_function_transforms(scaling):
    import torch

    step = ResidualBranch(layers.PoolingMixer(), layers.IdentityMixer(), scaling)
    inputs: Any = keras.random.normal((3, *MAP))
    step(inputs[0])
    expected = torch.stack([step(each) for each in inputs])
    with torch.no_grad():
        _assert_near(torch.vmap(step)(inputs), expected, 1e-6)
        outputs: Any = torch.func.jvp(step, (inputs[0],), (inputs[0],))
    for output in outputs:  # and its derivative, as the step is linear
        _assert_near(output, expected[0], 1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch.compile")
def test_what_is_compiled_inside_a_block_takes_its_form():
    import torch

    for on in (True, False, True):
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x: x + 1 if fast_paths.enabled() else x - 1,
            backend="eager",
            fullgraph=True,
        )
        with fast_paths.switched(on):
            assert compiled(torch.zeros(1)).item() == (1 if on else -1)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch.compile")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_compiled_image_norm_of_large_numbers(dtype):
    import torch

    inputs = torch.randn(MAP, dtype=getattr(torch, dtype)) * 400 + 100
    norm = torch.compile(
        lambda x: operations.image_norm(x, None, None, 1e-6), backend="eager"
    )
    exact = inputs.double()
    expected = (exact - exact.mean((1, 2, 3), keepdim=True)) / exact.std(
        (1, 2, 3), keepdim=True, correction=0
    )
    _assert_near(norm(inputs), expected, 2e-2 if dtype == "bfloat16" else 2e-3)


@pytest.mark.large  # It compiles C++.
@pytest.mark.skipif(BACKEND != "torch", reason="about torch.compile")
def test_compiled_image_norm_has_plain_sums():
    import torch
    from torch._inductor.utils import run_and_get_code

    def written(norm):
        torch._dynamo.reset()
        # On small maps torch's compiler writes plain sums by itself.
        maps = torch.ones((2, 28, 28, 64), device="cpu")
        _, code = run_and_get_code(torch.compile(norm), maps)
        return "".join(code)

    def group_norm(x):
        maps = x.permute(0, 3, 1, 2)
        return torch.nn.functional.group_norm(maps, 1).permute(0, 2, 3, 1)

    ours = written(lambda x: operations.image_norm(x, None, None, 1e-6))
    assert "Welford" in written(group_norm)  # Else there is no need of ours.
    assert "Welford" not in ours and "rsqrt" in ours


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's shapes")
@pytest.mark.parametrize("shape", [(2, 0, 3, 8), (0, 2, 3, 8), (3, 8)])
def test_dense_keeps_the_axes(shape):
    (kernel,) = _numbers((8, 4))
    assert operations.dense(keras.ops.ones(shape), kernel, None).shape == (
        *shape[:-1],
        4,
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's shapes")
def test_dense_of_a_map_of_unknown_shape():
    import tensorflow as tf

    inputs, kernel = _numbers(MAP, (8, 4))
    function = _as_graph(
        lambda x: operations.dense(x, kernel, None),
        input_signature=[tf.TensorSpec([None] * 4)],
    )
    _assert_near(function(inputs), inputs @ kernel, 1e-5)


_COUNT_FETCHED_PAGES = """
import resource, torch
from keras_metaformer.layers import fast_paths

fast_paths.keep_freed_memory()

def fetched():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for turn in range(13):
    if turn == 3:
        before = fetched()
    maps = [torch.ones(3_000_000) for _ in range(3)]
    del maps
print(fetched() - before)
"""


@pytest.mark.skipif(BACKEND != "torch", reason="the others have their own memory")
@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="about what glibc does with freed memory"
)
def test_freed_memory_is_kept_for_the_next_maps():
    # Without, it is fetched anew or kept by chance, as imports have freed before.
    printed = subprocess.run(
        [sys.executable, "-c", _COUNT_FETCHED_PAGES],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(printed) < 2930  # One map has so many pages, of ten times three maps.


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's graphs")
@pytest.mark.usefixtures("as_with_one_dnn")
def test_the_norm_for_graphs_is_for_graphs_on_cpus_alone():
    function, shapes, *_ = OPERATIONS["layer_norm"]
    tensors = _in_dtype("float32", *shapes)
    assert function(*tensors) is None
    taken = []
    for arguments in ({}, {"jit_compile": True}):
        _as_graph(
            lambda *tensors: taken.append(function(*tensors) is not None), **arguments
        )(*tensors)
    assert taken == [True, False]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's optimizer")
@pytest.mark.parametrize("one_dnn", ["0", "1"])
def test_forms_are_taken_where_they_become_one_operation(one_dnn):
    printed = subprocess.run(
        [sys.executable, "-m", "tests.layers.operations.optimized_graphs"],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": one_dnn},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    ).stdout
    report = json.loads(printed.splitlines()[-1])
    cases = report["layer_norm"]
    assert len(cases) == 12
    assert all(case["error"] < 3e-6 for case in cases)
    # Every case alike: as one operation where oneDNN is on, and otherwise not at all.
    (state,) = {(case["taken"], case["fused"]) for case in cases}
    assert state in {(True, 1), (False, 0)}
    if one_dnn == "0":
        assert state == (False, 0)
    elif platform.machine() in ("x86_64", "AMD64"):
        assert state == (True, 1)
    if state == (True, 1):
        # The bias is added within the matrix product.
        (product,) = (name for name in report["dense"] if "MatMul" in name)
        assert "Fused" in product
        assert "BiasAdd" not in report["dense"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's oneDNN")
@pytest.mark.parametrize("asked_for", [False, True])
def test_the_log_says_where_one_dnn_is_off_and_would_help(
    asked_for, monkeypatch, caplog
):
    from tensorflow.python.util import _pywrap_util_port

    module: Any = operations._BACKEND
    monkeypatch.setattr(module, "gains_from_one_dnn", lambda: True)
    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: False)
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if asked_for:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not module._has_one_dnn.__wrapped__()
    assert ("TF_ENABLE_ONEDNN_OPTS=1" in caplog.text) != asked_for


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about TensorFlow's exporters")
@pytest.mark.parametrize("form", ["tf_saved_model", "litert"])
@pytest.mark.usefixtures("as_with_one_dnn")
def test_a_model_with_fused_norms_is_exported_by_keras(form, tmp_path):
    model = metaformer("separable_convolution")
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    expected = model.predict(images, verbose=0)
    path = tmp_path / "model.tflite"
    model.export(path, format=form, verbose=False)
    if form == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
        (outputs,) = interpreter.get_signature_runner()(image=images).values()
        operations = {entry["op_name"] for entry in interpreter._get_ops_details()}
        assert "FILL" not in operations  # Of the form for TensorFlow alone.
    else:
        import tensorflow as tf

        saved: Any = tf.saved_model.load(path)
        outputs = saved.serve(images)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
