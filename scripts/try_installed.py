"""Tries an installed package: a model on a photograph, trained, saved, loaded, ported.

Needs nothing but the package and one backend, no network and no tests. On OpenVINO,
which does not train, that step is left out.
"""

import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_metaformer as km
from keras_metaformer_lite.examples import example_photographs


def main() -> None:
    backend = keras.backend.backend()
    sizes = {"depths": (1, 1), "widths": (16, 32), "input_shape": (32, 32, 3)}
    model: Any = km.MetaFormer(
        mixer=("separable_convolution", "self_attention"),
        classes=3,
        include_preprocessing=True,
        **sizes,
    )
    images = example_photographs(32, 32)
    if backend != "openvino":
        model.compile("adamw", "sparse_categorical_crossentropy")
        model.fit(images, np.arange(len(images)) % 3, verbose=0)
    scores = model.predict(images, verbose=0)
    np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        again: Any = keras.saving.load_model(path)
    np.testing.assert_allclose(again.predict(images, verbose=0), scores, atol=1e-4)
    km.port_weights(again, km.to_state_dict(model))
    folded: Any = km.fold(model)
    scores_folded = folded.predict(images, verbose=0)
    np.testing.assert_allclose(scores_folded, scores, atol=1e-3)
    print(f"{km.__version__} on {backend}, keras {keras.__version__}: {km.__file__}")


if __name__ == "__main__":
    main()
