"""What `torch.compile` makes of whole models."""

from typing import Any

import keras
import numpy as np
import pytest

from tests.small_models import EACH_BUILDER, FAMILIES, build_small

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="about torch.compile"
)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
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


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_a_traced_model_gives_the_same():
    import torch

    torch._dynamo.reset()
    model = build_small("convformer")
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    images = keras.ops.convert_to_tensor(images)
    # Without a C++ compiler: traced as for one, then run operation by operation.
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(compiled(images), expected)
        # The weights are read at each call.
        weights = model.get_weights()
        model.set_weights([1.5 * weight for weight in weights])
        torch.testing.assert_close(compiled(images), model(images))
        assert not torch.allclose(model(images), expected)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("family", ["convformer", "caformer", "ffnet", "gmlp"])
def test_blocks_of_equal_shapes_are_one_program(family):
    import torch

    torch._dynamo.reset()
    depth = {"depth": 4} if family == "gmlp" else {"depths": (1, 1, 3, 1)}
    model = build_small(family, **depth)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    images = keras.ops.convert_to_tensor(images)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=keep, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
    (graph,) = graphs
    calls = [
        str(node.args[1])
        for node in graph.graph.nodes
        if "invoke_subgraph" in str(node.target)
    ]
    # What is called once is part of the rest.
    assert len(calls) == (4 if family == "gmlp" else 3)
    assert len(set(calls)) == 1


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_gradients_of_a_compiled_model_at_inference():
    import torch

    torch._dynamo.reset()
    model = build_small("caformer", depths=(1, 1, 1, 2))
    numbers = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    gradients = []
    for call in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        images: Any = keras.ops.convert_to_tensor(numbers)
        images.requires_grad_()
        model.zero_grad()
        call(images, training=False).square().sum().backward()
        weight = model.trainable_variables[0].value.grad
        gradients.append((images.grad, weight.clone()))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
