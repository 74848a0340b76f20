"""StarReLU, the activation of the MetaFormer baselines."""

from typing import Any

import keras

from keras_metaformer.layers import operations
from keras_metaformer.layers.configured_layer import ConfiguredLayer

#: Initial (scale, bias) by name. "code" is what sail-sg/metaformer starts from;
#: "paper" gives a standard normal input unit variance and zero mean (section 2.4.1:
#: E = 0.5 and Var = 1.25 for squared ReLU).
INITIAL_VALUES = {
    "code": (1.0, 0.0),
    "paper": (1.0 / 1.25**0.5, -0.5 / 1.25**0.5),
}


@keras.saving.register_keras_serializable(package="keras_metaformer")
class StarReLU(ConfiguredLayer):
    """StarReLU: `scale * relu(x) ** 2 + bias`, one scale and one bias per layer.

    Example:

    >>> import numpy as np
    >>> StarReLU(initial_values="code")(np.array([[-1.0, 2.0]])).shape
    (1, 2)

    Args:
        initial_values: `"code"` (scale 1, bias 0, as the official code starts),
            `"paper"` (scale 0.8944, bias -0.4472, as the paper derives), or a pair
            of floats `(scale, bias)`.
        learn_scale: bool. Whether training changes the scale.
        learn_bias: bool. Whether training changes the bias.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor of any shape.
        overwrite: bool. Whether no one else needs the inputs, so that the outputs may
            take their memory where no gradient is wanted.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `initial_values` is neither a known name nor two numbers.

    Reference:
        - MetaFormer Baselines for Vision, https://arxiv.org/abs/2210.13452
    """

    can_overwrite = True

    def __init__(
        self,
        initial_values: Any = "code",
        learn_scale=True,
        learn_bias=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(initial_values, str):
            if initial_values not in INITIAL_VALUES:
                raise ValueError(
                    f"`initial_values` must be one of {sorted(INITIAL_VALUES)} or a "
                    f"(scale, bias) pair. Received: initial_values={initial_values!r}"
                )
        elif len(tuple(initial_values)) != 2:
            raise ValueError(
                "`initial_values` must be a name or a (scale, bias) pair. "
                f"Received: initial_values={initial_values!r}"
            )
        else:
            initial_values = tuple(float(value) for value in initial_values)
        self.initial_values = initial_values
        self.learn_scale = learn_scale
        self.learn_bias = learn_bias

    def build(self, input_shape):
        values = self.initial_values
        scale, bias = INITIAL_VALUES[values] if isinstance(values, str) else values
        self.scale = self.add_weight(
            name="scale",
            shape=(1,),
            initializer=keras.initializers.Constant(scale),
            trainable=self.learn_scale,
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(1,),
            initializer=keras.initializers.Constant(bias),
            trainable=self.learn_bias,
        )

    def call(self, inputs, overwrite=False):
        return operations.star_relu(inputs, self.scale, self.bias, overwrite)

    def compute_output_shape(self, input_shape):
        return input_shape
