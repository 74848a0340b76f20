"""The learned per-channel multipliers: ResScale and LayerScale."""

import keras

from keras_metaformer.layers.configured_layer import ConfiguredLayer


class ChannelScale(ConfiguredLayer):
    """`x * scale` with one learned scale per channel (the last axis).

    The base of `ResScale` and `LayerScale`, which differ in where a block applies them
    and in where they start.
    """

    makes_own_output = True

    def __init__(self, initial_value, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = float(initial_value)

    def build(self, input_shape):
        self.scale = self.add_weight(
            name="scale",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, inputs):
        return inputs * self.scale

    def compute_output_shape(self, input_shape):
        return input_shape
