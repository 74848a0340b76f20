"""A linear layer and its batch norm, which fold into one at inference."""

import keras

from keras_metaformer.layers.composite import Composite
from keras_metaformer.layers.depthwise_convolution import DepthwiseConvolution
from keras_metaformer.layers.initializers import truncated_normal
from keras_metaformer.layers.norms.table import make_norm

_EPSILON = 1e-5
# What `keras_metaformer.fold` can merge with a batch norm.
_LINEAR = (keras.layers.Dense, keras.layers.Conv2D, DepthwiseConvolution)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class BatchNormalized(Composite):
    """Linear layer, then batch norm: `y = batch_norm(linear(x))`.

    Example:

    >>> import numpy as np
    >>> layer = BatchNormalized(keras.layers.Dense(4, use_bias=False))
    >>> layer(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 4)

    Args:
        linear: layer without bias and activation: `Dense`, `Conv2D` or
            `DepthwiseConvolution`.
        use_bias: bool. Whether the batch norm has an offset.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor, of the shape that `linear` takes.
        training: bool. Whether to normalise by the batch's own statistics.

    Returns:
        What `linear` makes of the inputs, normalised.

    Raises:
        TypeError: if `linear` is none of these layers.
        ValueError: if it has a bias or an activation.
    """

    def __init__(self, linear, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(linear, _LINEAR):
            raise TypeError(
                "`linear` must be a Dense, Conv2D or DepthwiseConvolution layer. "
                f"Received: linear={linear!r} of type {type(linear).__name__}"
            )
        activation = getattr(linear, "activation", keras.activations.linear)
        if linear.use_bias or activation is not keras.activations.linear:
            raise ValueError(
                "`linear` must have neither bias, which the batch norm brings, nor "
                f"activation. Received: linear={linear!r} with "
                f"use_bias={linear.use_bias}, activation={activation}"
            )
        self.linear = linear
        self.use_bias = use_bias
        self.norm = make_norm(
            "batch_norm", use_bias, epsilon=_EPSILON, dtype=self.dtype_policy
        )

    def flow(self, run, x):
        return run(x, self.linear, self.norm)


@keras.saving.register_keras_serializable(package="keras_metaformer")
class BatchNormalizedSkip(Composite):
    """Batch norm, then a linear layer, beside the identity: `y = x + W batch_norm(x)`.

    Example:

    >>> import numpy as np
    >>> BatchNormalizedSkip()(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Call arguments:
        inputs: float tensor `(..., channels)`.
        training: bool. Whether to normalise by the batch's own statistics.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = make_norm("batch_norm", epsilon=_EPSILON, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.linear = keras.layers.Dense(
            input_shape[-1],
            use_bias=False,
            kernel_initializer=truncated_normal(),
            dtype=self.dtype_policy,
        )
        super().build(input_shape)

    def flow(self, run, x):
        return run.add(x, run(x, self.norm, self.linear))
