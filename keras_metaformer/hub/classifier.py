"""A model of this library as KerasHub's image classifier."""

from collections.abc import Sequence
from typing import Any

import keras
import keras_hub

from keras_metaformer.arrays import to_numpy
from keras_metaformer.hub import published
from keras_metaformer.hub.backbone import MetaFormerBackbone
from keras_metaformer.hub.preprocessing import (
    MetaFormerImageClassifierPreprocessor,
    MetaFormerImageConverter,
)
from keras_metaformer.layers.dropout import Dropout
from keras_metaformer.layers.norms.table import make_norm
from keras_metaformer.models.pyramid_model import StageOutput, description_of

_CLASSIFIER = "predictions"


@keras.saving.register_keras_serializable(package="keras_metaformer")
class MetaFormerImageClassifier(keras_hub.models.ImageClassifier):
    """Any classifier of this library as KerasHub's `ImageClassifier`.

    Between the backbone's last map and the linear classifier it has the layers that the
    published models have there, so that these say here what they say as they are.
    Presets are the published weights, and folders and addresses that KerasHub knows.

    Example:

    >>> import keras_metaformer as km
    >>> model = km.PoolFormerS12(weights=None, classes=10)
    >>> classifier = MetaFormerImageClassifier.from_model(model)
    >>> classifier.output_shape
    (None, 10)

    Args:
        backbone: `MetaFormerBackbone`, or any `keras.Model` that gives a map.
        num_classes: int. Width of the classifier.
        preprocessor: what prepares images 0..255, or None where they come prepared.
        head: layers between the map and the classifier, in their order; None for an
            average pooling and a layer norm.
        activation: of the classifier, None for logits.
        dropout: float in [0, 1). Dropout rate before the classifier.
        head_dtype: of the classifier; None for the backbone's.
        **kwargs: `name` and the like.

    Call arguments:
        inputs: what the backbone takes. `predict`, `fit` and `evaluate` take images
            0..255 and use the preprocessor.

    Returns:
        Float `(batch, num_classes)`.
    """

    backbone_cls = MetaFormerBackbone
    preprocessor_cls = MetaFormerImageClassifierPreprocessor
    presets: Any = published.described()

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        preprocessor: Any = None,
        head: Sequence[keras.layers.Layer] | None = None,
        activation: Any = None,
        dropout: float = 0.0,
        head_dtype: Any = None,
        **kwargs: Any,
    ):
        head_dtype = head_dtype or backbone.dtype_policy
        if head is None:
            norm = make_norm("layer_norm", dtype=head_dtype)
            norm.name = "output_norm"
            head = [keras.layers.GlobalAveragePooling2D(name="average_pool"), norm]
        head = list(head)
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.output_dropout = keras.layers.Dropout(
            dropout, dtype=head_dtype, name="output_dropout"
        )
        self.output_dense = keras.layers.Dense(
            num_classes, activation=activation, dtype=head_dtype, name=_CLASSIFIER
        )
        inputs = backbone.input
        x = backbone(inputs)
        for layer in head:
            x = layer(x)
        outputs = self.output_dense(self.output_dropout(x))
        # Past the constructor of ImageClassifier, which knows one head alone.
        super(keras_hub.models.ImageClassifier, self).__init__(
            inputs=inputs, outputs=outputs, **kwargs
        )
        self.__dict__["head"] = head
        self.num_classes = num_classes
        self.activation = activation
        self.dropout = dropout

    @classmethod
    def from_model(
        cls, model: keras.Model, preprocessor: Any = "auto", **kwargs: Any
    ) -> "MetaFormerImageClassifier":
        """A classifier of this library as one of KerasHub's.

        Args:
            model: with its top. Backbone and head are shared with it, the last layer
                is copied.
            preprocessor: as in the class; `"auto"` makes one of the model's
                `image_description`.
            **kwargs: further arguments of the class; `num_classes` other than the
                model's for a last layer that is new.

        Raises:
            ValueError: if the model has no top.
        """
        names = [layer.name for layer in model.layers]
        if _CLASSIFIER not in names:
            raise ValueError(
                "Expected a model with its classifier: include_top=True. "
                f"Received: model={model.name!r}"
            )
        ends = [
            index
            for index, layer in enumerate(model.layers)
            if isinstance(layer, StageOutput)
        ]
        after = model.layers[ends[-1] + 1 : names.index(_CLASSIFIER)]
        dropped = [layer for layer in after if isinstance(layer, Dropout)]
        last: Any = model.get_layer(_CLASSIFIER)
        if isinstance(preprocessor, str) and preprocessor == "auto":
            description = description_of(model)
            preprocessor = None
            if description is not None:
                preprocessor = MetaFormerImageClassifierPreprocessor(
                    MetaFormerImageConverter.of(description)
                )
        arguments: dict[str, Any] = {
            "num_classes": last.units,
            "activation": last.activation,
            "dropout": dropped[0].rate if dropped else 0.0,
            **kwargs,
        }
        shape = tuple(model.input_shape[1:])
        classifier = cls(
            MetaFormerBackbone(model, shape),
            preprocessor=preprocessor,
            head=[layer for layer in after if layer not in dropped],
            **arguments,
        )
        if classifier.num_classes == last.units:
            for own, variable in zip(
                classifier.output_dense.weights, last.weights, strict=True
            ):
                own.assign(to_numpy(variable))
        return classifier

    def get_config(self) -> dict[str, Any]:
        config = super(keras_hub.models.ImageClassifier, self).get_config()
        activation = self.activation
        if not isinstance(activation, (str, type(None))):
            activation = keras.activations.serialize(activation)
        config.update(
            num_classes=self.num_classes,
            head=[
                keras.saving.serialize_keras_object(layer)
                for layer in self.__dict__["head"]
            ],
            activation=activation,
            dropout=self.dropout,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MetaFormerImageClassifier":
        head = [
            keras.saving.deserialize_keras_object(layer)
            if isinstance(layer, dict)
            else layer
            for layer in config.get("head") or ()
        ]
        return super().from_config({**config, "head": head or None})

    @classmethod
    def from_preset(
        cls, preset: Any, load_weights: bool = True, **kwargs: Any
    ) -> "MetaFormerImageClassifier":
        """As `keras_hub.models.ImageClassifier.from_preset`.

        Args:
            preset: a key of `presets`, or what KerasHub takes: a folder, or
                `"hf://owner/name"`.
            load_weights: whether the weights are loaded, or random.
            **kwargs: for a key of `presets` `num_classes`, `activation`, `dropout`,
                `preprocessor`, and arguments of the model's constructor such as
                `dtype`; else what KerasHub takes.

        Returns:
            The classifier; with `num_classes` its last layer is new.
        """
        if preset not in published.presets():
            return super().from_preset(preset, load_weights, **kwargs)
        own = {
            name: kwargs.pop(name)
            for name in ("num_classes", "activation", "dropout", "preprocessor")
            if name in kwargs
        }
        if "image_shape" in kwargs:
            kwargs["input_shape"] = kwargs.pop("image_shape")
        return cls.from_model(published.model_of(preset, load_weights, **kwargs), **own)
