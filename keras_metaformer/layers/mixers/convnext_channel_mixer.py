"""The ConvNeXt-style channel mixer of FFNet."""

from typing import Any

import keras

from keras_metaformer.layers.activations.table import make_activation
from keras_metaformer.layers.batch_normalized import BatchNormalized
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.initializers import (
    linear_settings,
    make_initializer,
    truncated_normal,
)
from keras_metaformer.layers.mixers.ffnified_attention import has_branches
from keras_metaformer.layers.mixers.meta_mixer import PARTS, MetaMixer
from keras_metaformer.layers.reparameterizable_depthwise import (
    ReparameterizableDepthwise,
)
from keras_metaformer.layers.validation import odd_integer, positive_integer


@keras.saving.register_keras_serializable(package="keras_metaformer")
class ConvNeXtChannelMixer(MetaMixer):
    """ConvNeXt-style channel mixer: `y = W2 act(W1 batch_norm(depthwise(x)))`.

    The `MetaMixer` whose query is a depthwise convolution with batch norm, whose keys
    and values are the kernels of two linear layers and whose activation is GELU.

    Example:

    >>> import numpy as np
    >>> ConvNeXtChannelMixer(3)(np.ones((1, 14, 14, 8), "float32")).shape
    (1, 14, 14, 8)

    Args:
        kernel_size: odd int. Of the depthwise convolution, in pixels or tokens.
        ratio: int. Hidden channels for each channel of the input.
        activation: name, layer, layer class or zero-argument factory.
        use_bias: bool. Whether linear layers have biases and batch norms offsets.
        dropout: float in [0, 1). Rate of the dropout after either linear layer.
        seed: int, or None for a random one. Of the dropout.
        kernel_initializer: initializer of the linear layers' kernels, None for a normal
            with standard deviation 0.02.
        bias_initializer: initializer of the biases.
        branches: bool, or None. Whether the depthwise convolution is trained as two
            branches, a `ReparameterizableDepthwise`. None, as FFNet has it, for
            branches from a size of 7 on.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)` or `(batch, tokens,
            channels)`.
        training: bool. Whether batch norms use the batch's own statistics.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Raises:
        ValueError: if `kernel_size` is not a positive odd integer, or 1 and to be
            trained as two branches, or `ratio` is not a positive integer.

    Reference:
        - A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545
        - MetaMixer Is All You Need, https://arxiv.org/abs/2406.02021
    """

    #: They follow from the arguments here.
    fixed_arguments = PARTS

    def __init__(
        self,
        kernel_size=7,
        ratio=3,
        activation="gelu",
        use_bias=True,
        dropout=0.0,
        seed=None,
        kernel_initializer=None,
        bias_initializer="zeros",
        branches=None,
        **kwargs,
    ):
        dtype = kwargs.get("dtype")
        super().__init__(
            query=_query(
                odd_integer("kernel_size", kernel_size), use_bias, branches, dtype
            ),
            interaction=None,  # These two are made in build, which knows the channels.
            activation=make_activation(activation, dtype),
            aggregation=None,
            **kwargs,
        )
        self.kernel_size = kernel_size
        # 4.0, which is an MLP's default, is whole too.
        whole = int(ratio) if ratio == int(ratio) else ratio
        self.ratio = positive_integer("ratio", whole)
        self.use_bias = use_bias
        self.branches = branches
        self.dropout = dropout
        self.seed = seed
        self.drop = (
            Dropout(dropout, seed=seed, dtype=self.dtype_policy) if dropout else None
        )
        self.kernel_initializer = make_initializer(
            kernel_initializer, truncated_normal()
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        channels = input_shape[-1]
        self.interaction = self._linear(self.ratio * channels, "interaction")
        self.aggregation = self._linear(channels, "aggregation")
        super().build(input_shape)

    def flow(self, run, x):
        hidden = run(x, self.query, self.interaction, self.activation, self.drop)
        return run(hidden, self.aggregation, self.drop)

    def _linear(self, units, name):
        return keras.layers.Dense(
            units,
            use_bias=self.use_bias,
            name=name,
            **linear_settings(self),
        )


def _query(
    kernel_size: int, use_bias: bool, branches: bool | None, dtype: Any
) -> keras.layers.Layer:
    if has_branches(kernel_size, branches):
        return ReparameterizableDepthwise(
            kernel_size, use_bias=use_bias, name="query", dtype=dtype
        )
    convolution = DepthwiseConvolution(
        kernel_size, kernel_initializer=truncated_normal(), dtype=dtype, name="linear"
    )
    return BatchNormalized(convolution, use_bias, dtype=dtype, name="query")
