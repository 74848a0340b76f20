"""A model of this library as a backbone of KerasHub."""

from collections.abc import Sequence
from typing import Any

import keras
import keras_hub

from keras_metaformer.features import FeatureExtractor, feature_extractor
from keras_metaformer.hub import published


@keras.saving.register_keras_serializable(package="keras_metaformer")
class MetaFormerBackbone(keras_hub.models.FeaturePyramidBackbone):
    """Any model of this library as KerasHub's `FeaturePyramidBackbone`.

    KerasHub's RetinaNet, DeepLabV3 and others take it as their `image_encoder`. It
    shares its layers with the model that it is made of, and gives the map of the last
    stage, before the last norm; `pyramid_outputs` are the maps of all stages. Presets
    are the published weights, `"caformer_s18_imagenet"` and so on, besides folders and
    addresses that KerasHub knows.

    Example:

    >>> import keras_metaformer as km
    >>> backbone = MetaFormerBackbone(km.CAFormerS18(weights=None, include_top=False))
    >>> sorted(backbone.pyramid_outputs)
    ['P2', 'P3', 'P4', 'P5']

    Args:
        image_encoder: functional model of this library, with or without its top; or
            what `feature_extractor` makes of one, whose levels and norms are taken.
        image_shape: `(height, width, channels)`, or None for any height and width
            where the mixers allow that, else the model's.
        dtype: as `keras_hub.models.Backbone` has it; layers keep their own.
        **kwargs: `name` and `trainable`.

    Call arguments:
        inputs: float images `(batch, height, width, channels)`, normalised unless the
            model has `include_preprocessing`.

    Returns:
        Float map `(batch, height, width, channels)` of the last level.

    Raises:
        ValueError: if the model has no pyramid levels, or is tied to another size.
    """

    presets: Any = published.described()

    def __init__(
        self,
        image_encoder: keras.Model,
        image_shape: Sequence[int | None] | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        encoder: Any = image_encoder
        if not isinstance(encoder, FeatureExtractor) or (
            image_shape not in (None, tuple(encoder.input_shape[1:]))
        ):
            levels = (
                list(encoder.pyramid_outputs)
                if not isinstance(encoder, FeatureExtractor)
                else None
            )
            encoder = feature_extractor(encoder, levels, input_shape=image_shape)
        maps = encoder.pyramid_outputs
        if not maps:
            raise ValueError(
                "`image_encoder` must have pyramid levels. "
                f"Received: image_encoder={image_encoder.name!r}"
            )
        last = max(maps, key=lambda level: int(level[1:]))
        super().__init__(
            inputs=encoder.inputs[0], outputs=maps[last], dtype=dtype, **kwargs
        )
        # Not as attributes that Keras looks for weights in: all are in the graph.
        self.__dict__["image_encoder"] = encoder
        self.__dict__["image_shape"] = tuple(encoder.input_shape[1:])
        self.pyramid_outputs = maps

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        encoder = self.__dict__["image_encoder"]
        config["image_encoder"] = keras.saving.serialize_keras_object(encoder)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MetaFormerBackbone":
        encoder = config["image_encoder"]
        if isinstance(encoder, dict):
            encoder = keras.saving.deserialize_keras_object(encoder)
        return super().from_config({**config, "image_encoder": encoder})

    @classmethod
    def from_preset(
        cls, preset: Any, load_weights: bool = True, **kwargs: Any
    ) -> "MetaFormerBackbone":
        """As `keras_hub.models.Backbone.from_preset`.

        Args:
            preset: a key of `presets`, or what KerasHub takes: a folder, or
                `"hf://owner/name"`.
            load_weights: whether the weights are loaded, or random.
            **kwargs: of the model's constructor for a key of `presets`, such as
                `dtype` and `include_preprocessing`; else what KerasHub takes.

        Returns:
            The backbone.
        """
        if preset not in published.presets():
            return super().from_preset(preset, load_weights, **kwargs)
        shape = kwargs.pop("image_shape", None)
        if shape is not None and None not in shape:
            kwargs["input_shape"] = shape
        return cls(published.model_of(preset, load_weights, **kwargs), shape)
