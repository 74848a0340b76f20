"""What `torch.compile` makes of whole models."""

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
