"""The base of layers that have no arguments of their own."""

import keras


class PlainLayer(keras.layers.Layer):
    """A layer whose config is Keras' own.

    Without a `get_config` in sight Keras records the arguments as they came, and then
    cannot serialise a layer that was given a dtype policy object.
    """

    def get_config(self):
        return super().get_config()
