"""One way to whatever classifies images: a name, a file, a run, a `.tflite`."""

import os
import warnings
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_metaformer.models import families
from keras_metaformer.models.pyramid_model import description_of
from keras_metaformer.training.models import classifier_layer
from keras_metaformer.training.run_folder import RunFolder
from keras_metaformer_lite.description import ImageDescription

#: What `open_classifier` takes.
Source = str | os.PathLike[str] | keras.Model


class Classifier(Protocol):
    """What gives probabilities of images.

    Attributes:
        description: how it wants its images, and what its classes are called.
        classes: int. How many classes it tells apart.
    """

    description: ImageDescription
    classes: int

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Float32 `(batch, classes)` of images as `description.prepare` gives them."""
        ...

    def embeddings(self, images: np.ndarray) -> np.ndarray:
        """What the classifier's last layer is given, float32 `(batch, channels)`."""
        ...


class KerasClassifier:
    """A functional Keras model."""

    def __init__(self, model: keras.Model) -> None:
        if len(getattr(model, "outputs", ())) != 1 or len(model.output_shape) != 2:
            raise ValueError(
                "Expected a functional model that gives (batch, classes). "
                f"Received: model={model.name!r}"
            )
        self.model = model
        self.classes = int(model.output_shape[-1])
        description = description_of(model)
        if description is None:
            raise ValueError(
                "Expected a model that says how its images are prepared: set "
                "`model.image_description` (`keras_metaformer.models.pyramid_model."
                "described` for a model of another package), and save it again. "
                f"Received: model={model.name!r}"
            )
        if description.output == "features":
            raise ValueError(
                "Expected a classifier; this model gives features. "
                f"Received: model={model.name!r}"
            )
        self.description = description
        self._features: keras.Model | None = None

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        outputs = np.asarray(self.model.predict_on_batch(images))
        return self.description.probabilities(outputs)

    def embeddings(self, images: np.ndarray) -> np.ndarray:
        if self._features is None:
            head = classifier_layer(self.model)
            self._features = keras.Model(self.model.inputs[0], head.input)
        outputs = self._features.predict_on_batch(images)
        return np.asarray(keras.ops.convert_to_numpy(outputs), "float32")


class LiteRTClassifier:
    """A `.tflite` file, run by LiteRT image by image."""

    def __init__(self, path: Path) -> None:
        from keras_metaformer_lite.litert.runner import LiteRTModel

        self._model = LiteRTModel(path, num_threads=os.cpu_count() or 1)
        self._model.check_takes_photographs()
        assert self._model.transform is not None
        labels = self._model.labels
        self.classes = self._model.classes
        self.description = ImageDescription(
            self._model.transform,
            includes_preprocessing=True,
            class_names=None if labels is None else tuple(labels),
        )

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        return self._model.probabilities(images)

    def embeddings(self, images: np.ndarray) -> np.ndarray:
        raise ValueError(
            "A `.tflite` file gives probabilities alone: take the `.keras` file for "
            f"embeddings. Received: {str(self._model.path)!r}"
        )


def open_classifier(
    source: Source, weights: str | os.PathLike[str] | None = None
) -> Classifier:
    """Opens what classifies images.

    Args:
        source: a constructor's name, a `.keras` file, the folder or the checkpoint of
            a run (its best model), a `.tflite` file, or a functional model.
        weights: tag or file for a constructor; None for its default weights.

    Raises:
        ValueError: if it is none of these, or no classifier.
        OSError: if it cannot be read, or weights cannot be had.
    """
    if isinstance(source, keras.Model):
        return KerasClassifier(source)
    path = Path(source)
    is_name = not path.exists() and path.suffix not in (".keras", ".tflite")
    if weights is not None and not is_name:
        raise ValueError(
            "`weights` are for a model that is given by its constructor's name. "
            f"Received: weights={weights!r} for {os.fspath(source)!r}"
        )
    if is_name:
        return _constructed(os.fspath(source), weights)
    if path.name == "checkpoint.safetensors":
        path = path.parent
    if path.is_dir():
        path = RunFolder(path).best_model()
    if path.suffix == ".tflite":
        return LiteRTClassifier(path)
    if path.suffix != ".keras":
        raise ValueError(
            "Expected a model's name, a `.keras` or `.tflite` file, or the folder of a "
            f"training run. Received: {os.fspath(source)!r}"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a `.keras` file; there is none. Received: {os.fspath(source)!r}"
        )
    model: Any = keras.saving.load_model(path, compile=False)
    return KerasClassifier(model)


def _constructed(name: str, weights: Any) -> Classifier:
    constructor = families.get(name).constructor
    options = {} if weights is None else {"weights": weights}
    with warnings.catch_warnings():
        # A classifier that starts at random says nothing.
        warnings.filterwarnings("error", message="Loaded the weights .* except")
        try:
            return KerasClassifier(constructor(**options))
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
