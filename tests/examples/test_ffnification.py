import pytest

from examples import ffnification
from keras_metaformer import layers
from keras_metaformer.models.complexity import count_macs

FIRST, *BETWEEN, LAST = ffnification.STEPS


@pytest.mark.parametrize(
    "step",
    [
        FIRST,
        *(pytest.param(step, marks=pytest.mark.one_backend) for step in BETWEEN),
        LAST,
    ],
)
def test_each_step_trains(step):
    measured = ffnification.measure(step, epochs=1, samples=64)
    assert 0.0 <= measured.accuracy <= 1.0
    model = ffnification.build(step)
    assert measured.parameters == model.count_params()
    mixer = model.get_layer("block_0").token_mixing.transform
    assert isinstance(mixer, layers.MetaMixer)


@pytest.mark.one_backend
def test_attention_costs_more_than_kernels():
    macs = [count_macs(ffnification.build(step)) for step in ffnification.STEPS]
    attention, no_projection, gelu, keys, values, _ = macs
    assert attention > no_projection == gelu > keys
    tokens, width, taps = 64, ffnification.WIDTH, ffnification.KERNEL_SIZE**2
    # In each of two blocks a linear layer over the channels becomes a kernel.
    assert keys - values == 2 * tokens * width * (width - taps)
