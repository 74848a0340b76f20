"""timm's features of one model of each family, as `record_features.py` wrote them."""

from pathlib import Path

import keras
import numpy as np

import keras_metaformer as km
from tests.golden.record_features import MODELS as MODELS
from tests.golden.record_features import SEED, SIZE
from tests.golden.seeded import seeded_images, seeded_state_dict


def recorded(constructor: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).with_name("features.npz")) as arrays:
        return {
            key.partition("/")[2]: arrays[key]
            for key in arrays
            if key.startswith(f"{constructor}/")
        }


def images() -> np.ndarray:
    return seeded_images(2, SIZE, SIZE, SEED)


def seeded_model(constructor: str) -> keras.Model:
    """The constructor's model with the weights that timm's had."""
    exact = {"activation": "gelu"} if constructor.startswith("MLPMixer") else {}
    model = getattr(km, constructor)(weights=None, input_shape=(SIZE, SIZE, 3), **exact)
    entries = [
        (key, array.shape, str(array.dtype))
        for key, array in km.to_state_dict(model, "timm").items()
    ]
    km.port_weights(model, seeded_state_dict(entries, SEED))
    return model
