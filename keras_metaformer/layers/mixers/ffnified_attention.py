"""FFNified attention, the token mixer of FFNet."""

from typing import Any

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.batch_normalized import BatchNormalized
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.initializers import (
    another,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.mixers.meta_mixer import PARTS, MetaMixer
from keras_metaformer.layers.reparameterizable_depthwise import (
    ReparameterizableDepthwise,
)
from keras_metaformer.layers.validation import pair_of_odd_integers

#: From this size on FFNet trains a depthwise convolution as two branches.
BRANCHED_KERNEL_SIZE = 7


@keras.saving.register_keras_serializable(package="keras_metaformer")
class FFNifiedAttention(MetaMixer):
    """FFNified attention: `y = depthwise(act(depthwise(batch_norm(W x))))`.

    The `MetaMixer` whose query is a linear layer with batch norm, whose keys and values
    are depthwise kernels and whose activation is GELU.

    Example:

    >>> import numpy as np
    >>> FFNifiedAttention(3)(np.ones((1, 14, 14, 8), "float32")).shape
    (1, 14, 14, 8)

    Args:
        kernel_size: odd int, or a pair of them for keys and values. Of the depthwise
            convolutions, in pixels, or in tokens of a sequence, for which they have one
            dimension.
        activation: name, layer, layer class or zero-argument factory.
        use_bias: bool. Whether convolutions have biases and batch norms offsets.
        branches: bool, or None. Whether each convolution is trained as two branches, a
            `ReparameterizableDepthwise`, or as one with a bias. None, as FFNet has it,
            for branches from a size of 7 on.
        kernel_initializer: initializer of the query's kernel, None for a normal with
            standard deviation 0.02.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.
        training: bool. Whether batch norms use the batch's own statistics.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if a size is not a positive odd integer, or is 1 and to be trained
            as two branches.

    Reference:
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """

    #: They follow from the arguments here.
    fixed_arguments = PARTS

    def __init__(
        self,
        kernel_size=7,
        activation="gelu",
        use_bias=True,
        kernel_initializer=None,
        branches=None,
        **kwargs,
    ):
        keys, values = pair_of_odd_integers("kernel_size", kernel_size)
        dtype = kwargs.get("dtype")
        super().__init__(
            query=None,  # Made in build, which knows the channels.
            interaction=depthwise(keys, "interaction", dtype, use_bias, branches),
            activation=make_activation(activation, dtype),
            aggregation=depthwise(values, "aggregation", dtype, use_bias, branches),
            **kwargs,
        )
        self.kernel_size = kernel_size
        self.use_bias = use_bias
        self.branches = branches
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )

    def build(self, input_shape):
        linear = keras.layers.Dense(
            input_shape[-1],
            use_bias=False,
            kernel_initializer=another(self.kernel_initializer),
            dtype=self.dtype_policy,
            name="linear",
        )
        self.query = BatchNormalized(
            linear, self.use_bias, dtype=self.dtype_policy, name="query"
        )
        super().build(input_shape)


def has_branches(kernel_size: int, branches: bool | None) -> bool:
    """Whether a depthwise convolution is trained as two branches; None as in FFNet."""
    return kernel_size >= BRANCHED_KERNEL_SIZE if branches is None else branches


def depthwise(
    kernel_size: int, name: str, dtype: Any, use_bias: bool, branches: bool | None
) -> keras.layers.Layer:
    """The depthwise convolution of a token mixer: with branches, or with a bias."""
    if has_branches(kernel_size, branches):
        return ReparameterizableDepthwise(
            kernel_size, use_bias=use_bias, name=name, dtype=dtype
        )
    return DepthwiseConvolution(
        kernel_size,
        use_bias=use_bias,
        kernel_initializer=truncated_normal(),
        name=name,
        dtype=dtype,
    )
