"""What stays as it is while the rest is trained."""

import keras

from keras_metaformer.layers.validation import whole_number
from keras_metaformer.models.pyramid_model import StageOutput


def freeze(model: keras.Model, stages: int = 0) -> None:
    """Freeze the first stages of a model, and the statistics of all its batch norms.

    Detectors are trained with small batches: what the first stages have learned is
    kept, and batch norms go on with the statistics and scales that they have. The
    layers are marked by Keras' `trainable`, which is saved with the model; compile it
    after this.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.CAFormerS18(weights=None, include_top=False)
    >>> freeze(model, stages=1)
    >>> model.get_layer("stage_0_block_0").trainable
    False

    Args:
        model: functional model of this library; an isotropic one has one stage.
        stages: int. So many stages, with the stem in front of them, are not trained; 0
            for batch norms alone.

    Raises:
        ValueError: if the model has fewer stages.
    """
    ends = [
        index
        for index, layer in enumerate(model.layers)
        if isinstance(layer, StageOutput)
    ]
    if whole_number("stages", stages) > len(ends):
        raise ValueError(
            f"`stages` must be at most {len(ends)}, which {model.name!r} has. "
            f"Received: stages={stages}"
        )
    if stages:
        for layer in model.layers[: ends[stages - 1] + 1]:
            layer.trainable = False
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
