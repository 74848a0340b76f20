"""LAMB and AdamW against the recorded steps of timm, and in model.fit."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_metaformer as km
from tests.training import traces

OPTIMIZERS = {"lamb": km.training.LAMB, "adamw": km.training.AdamW}
BACKEND = keras.backend.backend()


def _variables():
    return [
        keras.Variable(value, name=name.replace(".", "_"), dtype="float32")
        for name, value in zip(traces.PARAMETERS, traces.of("start"), strict=True)
    ]


def _make(name, decay, **arguments):
    rates = km.training.EpochSchedule(
        traces.FACTS["learning_rates"], updates_per_epoch=1
    )
    return OPTIMIZERS[name](rates, weight_decay=decay, **arguments)


def _assert_as_recorded(variables, case, step):
    for name, variable, expected in zip(
        traces.PARAMETERS, variables, traces.of(f"{case}/step{step}"), strict=True
    ):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable),
            expected,
            rtol=1e-6,
            atol=1e-6 * float(np.abs(expected).max()),
            err_msg=f"{name} after step {step}",
        )


def _gradients(step):
    return [ops.convert_to_tensor(array) for array in traces.of(f"gradient{step}")]


def _compiled(optimizer, variables):
    """A function of gradients that makes one step, compiled as in `model.fit`."""
    optimizer.build(variables)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda gradients: optimizer.apply(gradients, variables))
    if BACKEND == "jax":
        import jax

        step = jax.jit(optimizer.stateless_apply)

        def apply(gradients):
            new = step(
                [v.value for v in optimizer.variables],
                gradients,
                [v.value for v in variables],
            )
            state = [*variables, *optimizer.variables]
            for variable, value in zip(state, [*new[0], *new[1]], strict=True):
                variable.assign(value)

        return apply
    return lambda gradients: optimizer.apply(gradients, variables)


@pytest.mark.parametrize(
    ("name", "decay"), [("lamb", 0.05), ("adamw", 0.05), ("lamb", 0.0)]
)
def test_the_steps_are_the_recorded_ones(name, decay):
    variables = _variables()
    apply = _compiled(_make(name, decay), variables)
    for step in range(1, 15):
        apply(_gradients(step))
        if step in traces.RECORDED:
            _assert_as_recorded(variables, f"{name}_decay{decay}", step)


def test_a_step_that_is_not_compiled_is_the_recorded_one():
    variables = _variables()
    optimizer = _make("lamb", 0.05)
    for step in (1, 2):  # built at the first
        optimizer.apply(_gradients(step), variables)
    _assert_as_recorded(variables, "lamb_decay0.05", 2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_of_accumulated_gradients_are_the_recorded_ones(name):
    # Three batches whose gradients have the recorded one as their mean.
    variables = _variables()
    optimizer = _make(name, 0.05, gradient_accumulation_steps=3)
    apply = _compiled(optimizer, variables)
    for step in range(1, 8):
        before = [ops.convert_to_numpy(variable) for variable in variables]
        for part in (0.5, 1.0, 1.5):
            for variable, value in zip(variables, before, strict=True):
                np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
            apply([g * part for g in _gradients(step)])
        assert int(optimizer.iterations) == step
        if step in traces.RECORDED:
            _assert_as_recorded(variables, f"{name}_decay0.05", step)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_groups_are_the_recorded_ones(name):
    optimizer = _make(name, 0.05)
    variables = _variables()
    optimizer.build(variables)
    shapes = {variable.path: list(variable.shape) for variable in variables}
    groups = {
        group.weight_decay: [shapes[path] for path in group.paths]
        for group in optimizer.parameter_groups
    }
    recorded = traces.FACTS[f"{name}_decay0.05"]["groups"]
    assert groups == {group["decay"]: group["shapes"] for group in recorded}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_defaults_are_the_recorded_ones(name):
    recorded = traces.FACTS[f"{name}_decay0.05"]["defaults"]
    optimizer = OPTIMIZERS[name]()
    assert [optimizer.beta_1, optimizer.beta_2] == recorded["betas"]
    assert optimizer.epsilon == recorded["eps"]
    assert optimizer.global_clipnorm == recorded.get("max_grad_norm")
