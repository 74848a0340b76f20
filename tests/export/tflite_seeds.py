"""Small exported files of every kind, for the tests of their reader.

python tests/export/tflite_seeds.py FOLDER
"""

import sys
from pathlib import Path

LABELS = ["one", "two", "three"]


def make_seeds(folder: Path) -> list[Path]:
    """Exports small models in each format: 4 to 80 kB."""
    import keras
    import numpy as np

    import keras_metaformer as km
    from keras_metaformer.export import to_litert
    from tests.export.models import shake

    keras.utils.set_random_seed(0)
    calibration = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3))

    def metaformer(width, mixer):
        options = {"input_shape": (32, 32, 3), "classes": 3}
        model = km.MetaFormer(
            [1], [width], mixer=mixer, include_preprocessing=True, **options
        )
        return shake(model)

    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.Concatenate()([x, keras.layers.MaxPooling2D()(image)])
    x = keras.layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Activation("swish")(x))
    stock = keras.Model(image, keras.layers.Dense(3)(x), name="stock")

    convolutions = metaformer(8, "separable_convolution")
    paths = []
    for name, model, options in [
        ("stock", stock, {"output": "probabilities"}),
        ("attention", metaformer(32, "self_attention"), {"input_type": "uint8"}),
        ("float16", convolutions, {"quantize": "float16"}),
        ("dynamic", convolutions, {"quantize": "dynamic"}),
        ("int8", convolutions, {"quantize": "int8", "calibration_images": calibration}),
    ]:
        paths.append(folder / f"{name}.tflite")
        to_litert(
            model,
            paths[-1],
            labels=LABELS,
            allow_inexact=True,
            check_gpu=False,
            latency_runs=0,
            verbose=False,
            **options,
        )
    return paths


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    make_seeds(Path(sys.argv[1]))
