"""LAMB and AdamW as timm and PyTorch compute them, with parameter groups."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_metaformer.training.groups import (
    ParameterGroup,
    has_weight_decay,
    parameter_groups,
    rate_scales,
)


def _in_one_of_several_replicas() -> bool:
    """Whether this is computed for one replica of a strategy of TensorFlow's."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    strategy: Any = tf.distribute.get_strategy()
    return (
        strategy.num_replicas_in_sync > 1
        and not tf.distribute.in_cross_replica_context()
    )


def _summed_over_replicas(gradients: list[Any]) -> list[Any]:
    if not _in_one_of_several_replicas():
        return gradients
    import tensorflow as tf

    found = [gradient for gradient in gradients if gradient is not None]
    context: Any = tf.distribute.get_replica_context()
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, found))
    return [None if gradient is None else next(sums) for gradient in gradients]


class _GroupedOptimizer(keras.optimizers.Optimizer):
    """What both share: groups, moments, and schedules that count updates."""

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float,
        beta_1: float,
        beta_2: float,
        epsilon: float,
        layer_decay: float | None,
        also_decayed: Sequence[str],
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        for name, value in (("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 < value < 1:
                raise ValueError(
                    f"`{name}` must lie in (0, 1). Received: {name}={value!r}"
                )
        if not weight_decay >= 0:
            raise ValueError(
                "`weight_decay` must be at least 0. "
                f"Received: weight_decay={weight_decay!r}"
            )
        if layer_decay is not None and not 0 < layer_decay <= 1:
            raise ValueError(
                "`layer_decay` must lie in (0, 1], or be None. "
                f"Received: layer_decay={layer_decay!r}"
            )
        if kwargs.get("gradient_accumulation_steps") == 1:
            kwargs["gradient_accumulation_steps"] = None
        super().__init__(learning_rate=learning_rate, **kwargs)
        # Not Keras' attribute of that name, which decays before the update.
        self.decay = float(weight_decay)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.layer_decay = layer_decay
        self.also_decayed = tuple(also_decayed)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )
        paths = [variable.path for variable in variables]
        self._rate_scales = rate_scales(paths, self.layer_decay)
        self._decays = [
            self.decay
            if has_weight_decay(variable.path, variable.shape, self.also_decayed)
            else 0.0
            for variable in variables
        ]

    @property
    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of the variables that the optimizer was built with."""
        return parameter_groups(
            self._trainable_variables, self.decay, self.layer_decay, self.also_decayed
        )

    def apply(self, grads, trainable_variables=None):
        # Before they are clipped and accumulated; Keras does it after that.
        super().apply(_summed_over_replicas(list(grads)), trainable_variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if not _in_one_of_several_replicas():
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        if not _in_one_of_several_replicas():
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
            return
        for gradient, sum_so_far in zip(grads, acc_grads, strict=True):
            sum_so_far.assign(sum_so_far + gradient)

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        raise ValueError(
            "The groups follow from shapes and paths: give `weight_decay` and "
            "`also_decayed` instead. Received: "
            f"var_list={var_list}, var_names={var_names}"
        )

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            # Keras asks by `_iterations`, which counts batches.
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    def _moments(self, gradient, variable):
        """Move the moments, and return them without their bias towards zero."""
        index = self._get_variable_index(variable)
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        momentum, velocity = self._momentums[index], self._velocities[index]
        new_momentum = momentum * self.beta_1 + gradient * (1.0 - self.beta_1)
        new_velocity = velocity * self.beta_2 + ops.square(gradient) * (
            1.0 - self.beta_2
        )
        self.assign(momentum, new_momentum)
        self.assign(velocity, new_velocity)
        step = ops.cast(self.iterations + 1, dtype)
        # 1 - beta ** step, without the loss of digits near 1.
        first = -ops.expm1(step * math.log(self.beta_1))
        second = -ops.expm1(step * math.log(self.beta_2))
        return new_momentum / first, ops.sqrt(new_velocity) / ops.sqrt(second)

    def _rate_and_decay(self, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = ops.cast(learning_rate, variable.dtype) * self._rate_scales[index]
        return rate, self._decays[index]

    def get_config(self):
        config = super().get_config()
        config.update(
            weight_decay=self.decay,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            layer_decay=self.layer_decay,
            also_decayed=list(self.also_decayed),
        )
        return config


@keras.saving.register_keras_serializable(package="keras_metaformer")
class LAMB(_GroupedOptimizer):
    """LAMB as timm computes it.

    Gradients `g` are clipped to a global norm of 1 first. Then, for each parameter `w`
    at step `t`:

        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g²
        u = (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon)
        u = u + weight_decay * w
        w = w - learning_rate * (|w| / |u|) * u

    The trust ratio `|w| / |u|` is 1 where either norm is 0. Parameters of one dimension
    and biases have neither weight decay nor trust ratio; with `weight_decay=0` none
    has. `keras.optimizers.Lamb` differs in each of these points.

    Schedules count updates: with `gradient_accumulation_steps=n`, where the mean
    gradient of `n` batches makes one, a schedule is asked every `n` batches for its
    next value.

    Example:

    >>> optimizer = LAMB(8e-3, weight_decay=0.05)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> optimizer.build(model.trainable_variables)
    >>> [(group.weight_decay, group.parameters) for group in optimizer.parameter_groups]
    [(0.05, 8), (0.0, 2)]

    Args:
        learning_rate: float, a `keras.optimizers.schedules.LearningRateSchedule`, or a
            callable without arguments.
        weight_decay: of parameters with more than one dimension.
        beta_1: decay of the first moment, in (0, 1).
        beta_2: decay of the second moment, in (0, 1).
        epsilon: added to the root of the second moment.
        layer_decay: factor of the learning rate from one block to the block before it,
            or None for the same rate everywhere.
        also_decayed: patterns, as of `fnmatch`, of the paths of further parameters that
            have weight decay.
        global_clipnorm: global norm that gradients are clipped to, or None.
        name: of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`, such as
            `gradient_accumulation_steps`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        - Large Batch Optimization for Deep Learning: Training BERT in 76 minutes,
          https://arxiv.org/abs/1904.00962
        - `Lamb` of timm 1.0.31
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        layer_decay: float | None = None,
        also_decayed: Sequence[str] = (),
        global_clipnorm: float | None = 1.0,
        name: str = "lamb",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            weight_decay,
            beta_1,
            beta_2,
            epsilon,
            layer_decay,
            also_decayed,
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate):
        momentum, root = self._moments(gradient, variable)
        rate, decay = self._rate_and_decay(variable, learning_rate)
        update = momentum / (root + self.epsilon)
        if decay:
            value = ops.convert_to_tensor(variable)
            update = update + value * decay
            value_norm = ops.sqrt(ops.sum(ops.square(value)))
            update_norm = ops.sqrt(ops.sum(ops.square(update)))
            known = ops.logical_and(value_norm > 0, update_norm > 0)
            ratio = value_norm / ops.where(known, update_norm, 1.0)
            rate = rate * ops.where(known, ratio, 1.0)
        self.assign_sub(variable, update * rate)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class AdamW(_GroupedOptimizer):
    """AdamW as PyTorch computes it, with timm's parameter groups.

    For each parameter `w` with gradient `g` at step `t`:

        w = w - learning_rate * weight_decay * w
        m = beta_1 * m + (1 - beta_1) * g
        v = beta_2 * v + (1 - beta_2) * g²
        w = w - learning_rate * (m / (1 - beta_1^t))
                / (sqrt(v / (1 - beta_2^t)) + epsilon)

    `keras.optimizers.AdamW` adds its epsilon before the correction of `v`, which makes
    it the larger the earlier the step, decays biases, and asks schedules by the number
    of batches under gradient accumulation.

    Example:

    >>> AdamW(1e-3, weight_decay=0.05, gradient_accumulation_steps=4).epsilon
    1e-08

    Args:
        learning_rate: float, a `keras.optimizers.schedules.LearningRateSchedule`, or a
            callable without arguments.
        weight_decay: of parameters with more than one dimension that are no biases.
        beta_1: decay of the first moment, in (0, 1).
        beta_2: decay of the second moment, in (0, 1).
        epsilon: added to the root of the second moment.
        layer_decay: factor of the learning rate from one block to the block before it,
            or None for the same rate everywhere.
        also_decayed: patterns, as of `fnmatch`, of the paths of further parameters that
            have weight decay.
        name: of the optimizer.
        **kwargs: of `keras.optimizers.Optimizer`, such as `global_clipnorm` and
            `gradient_accumulation_steps`.

    Raises:
        ValueError: if an argument is out of range.

    Reference:
        - Decoupled Weight Decay Regularization, https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        layer_decay: float | None = None,
        also_decayed: Sequence[str] = (),
        name: str = "adamw",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            weight_decay,
            beta_1,
            beta_2,
            epsilon,
            layer_decay,
            also_decayed,
            name=name,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate):
        momentum, root = self._moments(gradient, variable)
        rate, decay = self._rate_and_decay(variable, learning_rate)
        value = ops.convert_to_tensor(variable)
        if decay:
            value = value * (1.0 - rate * decay)
        self.assign(variable, value - rate * momentum / (root + self.epsilon))
