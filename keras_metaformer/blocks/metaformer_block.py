"""The MetaFormer block: token mixing, then channel mixing."""

import keras

from keras_metaformer.layers.composite import Composite


@keras.saving.register_keras_serializable(package="keras_metaformer")
class MetaFormerBlock(Composite):
    """MetaFormer block: a residual step over the tokens, then one over the channels.

    `h = x + token_mixer(norm(x))`, `y = h + channel_mixer(norm(h))`, with the scales
    and the stochastic depth of `ResidualBranch`.

    Example:

    >>> import numpy as np
    >>> from keras_metaformer.blocks import ChannelMLP
    >>> from keras_metaformer.layers import PoolingMixer
    >>> norm = keras.layers.LayerNormalization
    >>> block = MetaFormerBlock(
    ...     ResidualBranch(PoolingMixer(), norm()), ResidualBranch(ChannelMLP(), norm())
    ... )
    >>> block(np.ones((1, 7, 7, 8), "float32")).shape
    (1, 7, 7, 8)

    Args:
        token_mixing: `ResidualBranch` around a token mixer.
        channel_mixing: `ResidualBranch` around a channel MLP.
        between: layer between the two steps, such as `SqueezeExcitation`, or None.
        **kwargs: `name`, `dtype` and the like, as for any Keras layer.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.
        training: bool. Passed on to both steps.

    Returns:
        Tensor of the inputs' shape, in the layer's compute dtype.

    Reference:
        - MetaFormer Is Actually What You Need for Vision,
          https://arxiv.org/abs/2111.11418
    """

    def __init__(self, token_mixing, channel_mixing, between=None, **kwargs):
        super().__init__(**kwargs)
        self.token_mixing = token_mixing
        self.between = between
        self.channel_mixing = channel_mixing

    def flow(self, run, x):
        return run(x, self.token_mixing, self.between, self.channel_mixing)
