"""The functional model with named stages that every builder returns."""

import keras

from keras_metaformer.blocks import Downsampling, PatchMerging
from keras_metaformer.layers.plain_layer import PlainLayer
from keras_metaformer.models.config import pyramid_level


@keras.saving.register_keras_serializable(package="keras_metaformer")
class PyramidModel(keras.Model):
    """A functional `keras.Model` whose stages can be asked for by pyramid level.

    Detectors and segmenters of KerasHub and KerasCV take a model with these two
    properties as their backbone. They are read from the graph, so they are there after
    loading a `.keras` file too.
    """

    @property
    def pyramid_level_inputs(self) -> dict[str, str]:
        """`{"P2": layer name, ...}`: the layer that ends each stage."""
        levels, stride = {}, 1
        for layer in self.layers:
            if isinstance(layer, (Downsampling, PatchMerging)):
                stride *= layer.strides
            elif isinstance(layer, StageOutput):
                levels[pyramid_level(stride)] = layer.name
        return levels

    @property
    def pyramid_outputs(self) -> dict[str, keras.KerasTensor]:
        """`{"P2": symbolic map, ...}` of shape `(batch, height, width, channels)`."""
        return {
            level: self.get_layer(name).output
            for level, name in self.pyramid_level_inputs.items()
        }


@keras.saving.register_keras_serializable(package="keras_metaformer")
class StageOutput(PlainLayer):
    """Marks the end of a stage in the graph and passes the map through.

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Returns:
        The inputs.
    """

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape
