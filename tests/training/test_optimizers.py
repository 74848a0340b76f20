"""LAMB and AdamW against the recorded steps of timm, and in model.fit."""

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from tests.training import traces
from tests.training.fitting import SILENT, batches, small_model

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
            to_numpy(variable),
            expected,
            rtol=1e-6,
            atol=1e-6 * float(np.abs(expected).max()),
            err_msg=f"{name} after step {step}",
        )


def _gradients(step) -> list[Any]:
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
        before = [to_numpy(variable) for variable in variables]
        for part in (0.5, 1.0, 1.5):
            for variable, value in zip(variables, before, strict=True):
                np.testing.assert_array_equal(to_numpy(variable), value)
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


def _fitted(batch_size, accumulate, name="lamb"):
    keras.utils.set_random_seed(3)
    model = small_model()
    optimizer = OPTIMIZERS[name](
        km.training.EpochSchedule([0.05, 0.02], updates_per_epoch=2),
        global_clipnorm=0.1,
        gradient_accumulation_steps=accumulate,
    )
    model.compile(optimizer, "categorical_crossentropy")
    model.fit(
        *batches(12, size=4),
        batch_size=batch_size,
        epochs=2,
        shuffle=False,
        verbose=SILENT,
    )
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_fit_accumulated_batches_count_as_one_large_batch(name):
    large = _fitted(24, 1, name)
    small = _fitted(4, 6, name)
    assert int(large.optimizer.iterations) == int(small.optimizer.iterations) == 4
    for got, wanted in zip(small.get_weights(), large.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-6)
    rates = [float(model.optimizer.learning_rate) for model in (large, small)]
    assert rates == [pytest.approx(0.02)] * 2
    untrained = small_model().get_weights()
    assert all(
        np.abs(a - b).max() > 1e-2
        for a, b in zip(large.get_weights(), untrained, strict=True)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_and_its_state_are_saved_with_the_model(name, tmp_path):
    model = _fitted(8, 2, name)
    model.save(tmp_path / "model.keras")
    again: Any = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is OPTIMIZERS[name]
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.optimizer.parameter_groups == model.optimizer.parameter_groups
    pairs = zip(again.optimizer.variables, model.optimizer.variables, strict=True)
    for got, wanted in pairs:
        np.testing.assert_array_equal(to_numpy(got), to_numpy(wanted))
    images, targets = batches(2)
    for each in (model, again):
        each.fit(images, targets, batch_size=8, shuffle=False, verbose=SILENT)
    for got, wanted in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_in_half_precision_keras_scales_the_loss_around_it():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy(before)
    optimizer = km.training.LAMB(0.01)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "categorical_crossentropy")
    model.fit(*batches(3), batch_size=8, verbose=SILENT)
    assert type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    assert model.optimizer.inner_optimizer is optimizer
    assert int(optimizer.iterations) == 3
    assert [group.weight_decay for group in optimizer.parameter_groups] == [0.05, 0.0]


def test_a_model_is_trained_in_a_loop_of_ones_own():
    model = small_model()
    optimizer = km.training.AdamW(1e-2, layer_decay=0.5)
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    gradients = [ops.ones_like(v.value) for v in model.trainable_variables]
    optimizer.apply(gradients)
    for old, new, variable in zip(
        before, model.get_weights(), model.trainable_variables, strict=True
    ):
        decay = 0.05 if variable.path.endswith("kernel") else 0.0
        rate = 0.5e-2 if variable.path.startswith("stem") else 1e-2
        np.testing.assert_allclose(new, old * (1 - rate * decay) - rate, atol=1e-6)


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta_1": 1.0}, r"`beta_1` must lie in \(0, 1\).*beta_1=1.0"),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0.*-0.1"),
        ({"layer_decay": 1.5}, r"`layer_decay` must lie in \(0, 1\].*layer_decay=1.5"),
        ({"gradient_accumulation_steps": 0.5}, "gradient_accumulation_steps"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        km.training.LAMB(0.1, **arguments)


@pytest.mark.backend_independent
def test_variables_are_not_excluded_by_name():
    with pytest.raises(ValueError, match=r"`also_decayed`.*var_names=\['bias'\]"):
        km.training.AdamW().exclude_from_weight_decay(var_names=["bias"])
