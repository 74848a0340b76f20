"""What `torch.compile` makes of whole models."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import pytest

from tests.layer_checks import randomize, to_numpy
from tests.small_models import EACH_BUILDER, FAMILIES, build_small

pytestmark = [
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="about torch.compile"
    ),
    pytest.mark.filterwarnings(
        "ignore:Dynamo detected a call to a `functools.lru_cache`"
    ),
]


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(
            family,
            marks=() if family in (*EACH_BUILDER, "poolformer") else pytest.mark.large,
        )
        for family in FAMILIES
    ],
)
def test_a_model_is_one_graph(family):
    import torch

    torch._dynamo.reset()
    model = build_small(family)
    images = keras.ops.ones((2, 64, 64, 3))
    with torch.no_grad():
        explanation = torch._dynamo.explain(model)(images)
    assert explanation.graph_count == 1
    assert explanation.graph_break_count == 0


def test_a_traced_model_gives_the_same():
    import torch

    torch._dynamo.reset()
    model = build_small("convformer")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    images = keras.ops.convert_to_tensor(images)
    # Without a C++ compiler: traced as for one, then run operation by operation.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        # First: what a first call prepares must not be missing when it is traced.
        first = compiled(images)
        expected = model(images)
        torch.testing.assert_close(first, expected)
        # The weights are read at each call.
        weights = model.get_weights()
        model.set_weights([1.5 * weight for weight in weights])
        torch.testing.assert_close(compiled(images), model(images))
        assert not torch.allclose(model(images), expected)


# What torch takes as given while it traces must hold for each block and each model.


@pytest.fixture
def images() -> Any:
    import torch

    torch._dynamo.reset()
    numbers = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    return keras.ops.convert_to_tensor(numbers)


def _deep(family: str = "convformer", blocks: int = 2) -> keras.Model:
    """Some blocks in one stage, whose weights and logits all matter."""
    model = build_small(family, depths=(1, 1, blocks, 1), classifier_activation=None)
    randomize(model)
    return model


def _blocks(model: keras.Model) -> list[Any]:
    return [layer for layer in model.layers if layer.name.startswith("stage_2_block")]


def _regions(graph: Any) -> list[str]:
    """The program of each region of a compiled graph."""
    return [
        node.args[0].target
        for node in graph.graph.nodes
        if getattr(node.target, "__name__", "") == "invoke_subgraph"
    ]


class _Programs:
    """A compiler that counts blocks, and the programs that they are compiled to.

    It says that it is Inductor, torch's own, but needs no C++ compiler.
    """

    compiler_name = "inductor"

    def __init__(self, **config: Any):
        self.config = config
        self.graphs = 0

    def __call__(self, graph, example_inputs):
        self.graphs += 1
        regions = _regions(graph)
        self.blocks = len(regions)
        self.programs = len(set(regions))
        return graph.forward


def _compiled(model: Any) -> Any:
    import torch

    return torch.compile(model, backend=_Programs(), fullgraph=True)


def _assert_same(compiled: Any, model: Any, images: Any) -> Any:
    import torch

    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(compiled(images), expected, rtol=1e-4, atol=1e-4)
    return expected


def test_models_that_differ_in_a_number_in_one_process(images):
    for epsilon in (1e-6, 1e-5):
        model = _deep()
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.LayerNormalization):
                layer.epsilon = epsilon
        _assert_same(_compiled(model), model, images)


def test_a_block_that_differs_is_seen_before_and_after_compiling(images):
    model = _deep()
    second = _blocks(model)[1].channel_mixing.transform
    second.project.activation = keras.activations.tanh
    compiled = _compiled(model)
    before = _assert_same(compiled, model, images)
    second.project.activation = keras.activations.linear
    after = _assert_same(compiled, model, images)
    assert np.abs(to_numpy(after) - to_numpy(before)).max() > 1e-2
    model.set_weights([1.1 * weight for weight in model.get_weights()])
    _assert_same(compiled, model, images)


def test_losses_are_those_of_the_last_call(images):
    model = _deep()
    compiled = _compiled(model)
    _assert_same(compiled, model, images)
    assert model.losses == []
    inner = _blocks(model)[1].channel_mixing.transform.expand
    inner.activity_regularizer = keras.regularizers.L2(0.1)
    for _ in range(2):
        model(images)
        (expected,) = map(float, model.losses)
        compiled(images)
        assert [float(loss) for loss in model.losses] == pytest.approx([expected])
    assert expected > 0


def test_models_of_one_structure_share_a_program(images):
    import torch
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    for _ in range(2):
        model = _deep("poolformer")
        compiled: Any = torch.compile(model, backend=counter, fullgraph=True)
        _assert_same(compiled, model, images)
    assert counter.frame_count == 1


def _programs(
    model: Any, images: Any, compiler: Any = None, **options: Any
) -> tuple[int, int]:
    import torch

    count = compiler or _Programs()
    compiled: Any = torch.compile(model, backend=count, fullgraph=True, **options)
    _assert_same(compiled, model, images)
    return count.blocks, count.programs


@pytest.mark.parametrize(
    "family", ["convformer", pytest.param("gmlp", marks=pytest.mark.large)]
)
def test_equal_blocks_are_one_program(images, family):
    depths = {"depths": (1, 1, 3, 1)} if family == "convformer" else {"depth": 4}
    model = build_small(family, classifier_activation=None, **depths)
    # torch puts what is there once, the blocks of the other stages, where it is used.
    equal = 3 if family == "convformer" else 4
    assert _programs(model, images) == (equal, 1)


def test_blocks_that_differ_are_programs_of_their_own(images):
    model = _deep(blocks=3)
    assert _programs(model, images) == (3, 1)
    _blocks(model)[1].token_mixing.norm.epsilon = 0.1
    assert _programs(model, images) == (2, 1)


def test_both_forms_of_gelu_are_programs_of_their_own(images):
    model = _deep("poolformer", blocks=3)
    assert _programs(model, images) == (3, 1)
    _blocks(model)[1].channel_mixing.transform.activation.approximate = True
    assert _programs(model, images) == (2, 1)


@pytest.mark.large
def test_other_compilers_than_inductor_as_it_comes(images):
    for compiler in (_Programs(cpp_wrapper=True), _Programs(freezing=True)):
        assert _programs(_deep(), images, compiler) == (0, 0)
    of_a_user = _Programs()
    of_a_user.compiler_name = "of a user"
    assert _programs(_deep(), images, of_a_user) == (0, 0)


def test_blocks_that_share_a_layer(images):
    model = _deep(blocks=3)
    first, second, _ = (block.channel_mixing.transform for block in _blocks(model))
    second._tracker.unlock()
    second.expand = first.expand
    _assert_same(_compiled(model), model, images)


@pytest.mark.parametrize(
    "case",
    [
        "layer",
        "hook",
        *(
            pytest.param(case, marks=pytest.mark.large)
            for case in ("activation", "backward hook", "call", "any module's hook")
        ),
    ],
)
def test_what_breaks_the_graph_inside_a_block(images, case, request):
    import torch
    from torch.nn.modules.module import register_module_forward_hook

    class Breaking(keras.layers.Layer):
        def call(self, inputs):
            torch._dynamo.graph_break()
            return 2 * inputs

    def break_and_double(inputs):
        torch._dynamo.graph_break()
        return 2 * inputs

    model = _deep()
    second = _blocks(model)[1]
    if case == "layer":
        second.token_mixing._tracker.unlock()
        second.token_mixing.transform = Breaking()
    elif case == "activation":
        second.channel_mixing.transform.project.activation = break_and_double
    elif case == "call":
        plain_call = second.channel_mixing.transform.call
        second.channel_mixing.transform.call = lambda inputs, **arguments: (
            break_and_double(plain_call(inputs, **arguments))
        )
    elif case == "backward hook":
        second.token_mixing.register_full_backward_hook(lambda *_: None)
    elif case == "hook":
        second.channel_mixing.transform.register_forward_hook(
            lambda _, __, outputs: print(to_numpy(outputs).mean())
        )
    else:
        hook = register_module_forward_hook(lambda *_: torch._dynamo.graph_break())
        request.addfinalizer(hook.remove)
    _assert_same(torch.compile(model, backend=_Programs()), model, images)


def test_sizes_that_only_a_call_tells(images):
    # torch 2.13 cannot compile regions for them.
    assert _programs(_deep(), images, dynamic=True) == (0, 0)


def test_weights_of_a_stateless_call(images):
    import torch

    model: Any = _deep()
    state = [variable.value for variable in model.non_trainable_variables]

    def call(weights, images):
        outputs, _ = model.stateless_call(weights, state, images)
        return outputs

    compiled: Any = torch.compile(call, backend=_Programs(), fullgraph=True)
    with torch.no_grad():
        plain = model(images)
        for factor in (1.1, 1.2):
            weights = [factor * each.value for each in model.trainable_variables]
            expected = call(weights, images)
            torch.testing.assert_close(
                compiled(weights, images), expected, rtol=1e-4, atol=1e-4
            )
            assert not torch.allclose(expected, plain)


@pytest.mark.large
def test_what_inductor_makes_of_equal_blocks(images):
    import torch

    # With a C++ compiler, which `make test-all` needs.
    for epsilon in (1e-6, 1e-3):  # A number that changes is a symbol from then on.
        model = _deep(blocks=4)
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.LayerNormalization):
                layer.epsilon = epsilon
        _, second, third, _ = (b.channel_mixing.transform for b in _blocks(model))
        third._tracker.unlock()
        third.expand = second.expand
        with torch.inference_mode():
            expected = model(images)
            torch.testing.assert_close(
                torch.compile(model)(images), expected, rtol=1e-4, atol=1e-4
            )


def test_a_second_call_compiles_nothing(images):
    import torch

    def compile_and_call():  # In a thread that no scope of Keras' was opened in.
        model = _deep()
        compiled: Any = torch.compile(model, backend=count)
        for _ in range(3):
            _assert_same(compiled, model, images)

    count = _Programs()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(compile_and_call).result()
    assert count.graphs == 1


@pytest.mark.large
def test_a_regularizer_that_comes_while_training_is_seen(images, monkeypatch):
    import torch

    # Without a C++ compiler, as Keras would have none.
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda call, **_: compiler(call, backend="eager")
    )
    losses = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(1)
        model: Any = _deep("poolformer")
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
        losses.append([])
        for step in range(4):
            if step == 2:
                inner = _blocks(model)[1].channel_mixing.transform.expand
                inner.activity_regularizer = keras.regularizers.L2(1e-3)
            losses[-1].append(float(model.train_on_batch(images, np.zeros(2))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][2] > losses[0][1]


@pytest.mark.large
def test_a_hook_of_one_block_runs(images):
    model = _deep()
    plain = model(images)
    inner = _blocks(model)[1].channel_mixing.transform.expand
    inner.register_forward_hook(lambda _, __, outputs: 2 * outputs)
    hooked = _assert_same(_compiled(model), model, images)
    assert np.abs(to_numpy(hooked) - to_numpy(plain)).max() > 1e-2


@pytest.mark.large
def test_all_gradients_of_a_compiled_model_at_inference(images):
    import torch

    model: Any = _deep("caformer")
    gradients = []
    for call in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        call(images, training=False).square().sum().backward()
        found = [variable.value.grad for variable in model.trainable_variables]
        assert all(gradient is not None for gradient in found)
        gradients.append([gradient.clone() for gradient in found])
    for eager, compiled in zip(*gradients, strict=True):
        scale = eager.abs().max()
        torch.testing.assert_close(compiled / scale, eager / scale, rtol=0, atol=1e-3)
