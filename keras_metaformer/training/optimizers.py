"""LAMB and AdamW as timm and PyTorch compute them, with parameter groups."""

import math
from typing import Any

import keras
from keras import ops

from keras_metaformer.training.groups import (
    ParameterGroup,
    has_weight_decay,
    parameter_groups,
    rate_scales,
)


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
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, **kwargs)
        # Keras' own `weight_decay` is applied before the update, to all variables.
        self.decay = float(weight_decay)
        self.beta_1 = float(beta_1)
        self.beta_2 = float(beta_2)
        self.epsilon = float(epsilon)
        self.layer_decay = layer_decay

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
            self.decay if has_weight_decay(variable.path, variable.shape) else 0.0
            for variable in variables
        ]

    @property
    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of the variables that the optimizer was built with."""
        return parameter_groups(self._trainable_variables, self.decay, self.layer_decay)

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            # Keras asks by `_iterations`, which counts batches.
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    def _moments(self, gradient, variable):
        """Moves the moments; returns them without their bias towards zero."""
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
        return new_momentum / first, new_velocity / second

    def get_config(self):
        config = super().get_config()
        config.update(
            weight_decay=self.decay,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            layer_decay=self.layer_decay,
        )
        return config


@keras.saving.register_keras_serializable(package="keras_metaformer")
class LAMB(_GroupedOptimizer):
    """LAMB as timm computes it."""

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        layer_decay: float | None = None,
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
            global_clipnorm=global_clipnorm,
            name=name,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        first, second = self._moments(gradient, variable)
        update = first / (ops.sqrt(second) + self.epsilon)
        rate = ops.cast(learning_rate, variable.dtype) * self._rate_scales[index]
        decay = self._decays[index]
        if decay:
            update = update + ops.convert_to_tensor(variable) * decay
            weights_norm = ops.norm(ops.reshape(variable, (-1,)))
            update_norm = ops.norm(ops.reshape(update, (-1,)))
            both = ops.logical_and(weights_norm > 0, update_norm > 0)
            ratio = weights_norm / ops.where(both, update_norm, 1.0)
            rate = rate * ops.where(both, ratio, 1.0)
        self.assign_sub(variable, update * rate)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class AdamW(_GroupedOptimizer):
    """AdamW as PyTorch computes it."""

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        layer_decay: float | None = None,
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
            name=name,
            **kwargs,
        )

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        first, second = self._moments(gradient, variable)
        rate = ops.cast(learning_rate, variable.dtype) * self._rate_scales[index]
        value = ops.convert_to_tensor(variable)
        decay = self._decays[index]
        if decay:
            value = value * (1.0 - rate * decay)
        self.assign(variable, value - rate * first / (ops.sqrt(second) + self.epsilon))
