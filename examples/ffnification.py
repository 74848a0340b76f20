"""From self-attention to FFNified attention, one step at a time, on real digits.

Each step changes one part of the frame that both share: a query is compared with keys,
an activation makes coefficients of that, the coefficients combine values
(`km.MetaMixer`). The model around it stays the same: two blocks on 8 x 8 patches of
scikit-learn's digits, a fifth of which are held out.

Run: python examples/ffnification.py [--epochs 12]
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import keras

import keras_metaformer as km
from keras_metaformer import layers
from keras_metaformer.data.digits import load_digits
from keras_metaformer.models.complexity import count_macs

WIDTH = 48
HEAD_DIM = 16
KERNEL_SIZE = 7


def linear() -> keras.layers.Layer:
    return keras.layers.Dense(WIDTH, use_bias=False)


def depthwise() -> keras.layers.Layer:
    return layers.DepthwiseConvolution(KERNEL_SIZE, use_bias=True)


def attention(activation: Callable, projection: bool) -> keras.layers.Layer:
    return km.MetaMixer(
        query=linear(),
        key=linear(),
        interaction=layers.ScaledDotProduct(HEAD_DIM),
        activation=activation(),
        value=linear(),
        aggregation=layers.WeightedSum(),
        projection=linear() if projection else None,
    )


#: What changes, and the token mixer from then on.
STEPS: dict[str, Callable[[], keras.layers.Layer]] = {
    "self-attention": lambda: attention(keras.layers.Softmax, projection=True),
    "no projection": lambda: attention(keras.layers.Softmax, projection=False),
    "GELU instead of the softmax": lambda: attention(layers.GELU, projection=False),
    "the keys are a depthwise kernel": lambda: km.MetaMixer(
        query=linear(),
        interaction=depthwise(),
        activation=layers.GELU(),
        value=linear(),
        # One coefficient for each position and channel.
        aggregation=keras.layers.Multiply(),
    ),
    "the values are one, too": lambda: km.MetaMixer(
        query=linear(),
        interaction=depthwise(),
        activation=layers.GELU(),
        aggregation=depthwise(),
    ),
    "batch norms, two branches (FFNified attention)": lambda: layers.FFNifiedAttention(
        KERNEL_SIZE
    ),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a step costs and gives.

    Attributes:
        accuracy: on the digits held out.
        parameters: of the model, as it is trained.
        macs: multiply-accumulate operations for one image.
    """

    accuracy: float
    parameters: int
    macs: int


def build(step: str, **arguments: Any) -> keras.Model:
    return km.IsotropicMetaFormer(
        depth=2,
        width=WIDTH,
        patch_size=4,
        mixer=STEPS[step],
        position_embedding=True,
        input_shape=(32, 32, 3),
        classes=10,
        **arguments,
    )


def measure(step: str, epochs: int = 12, samples: int | None = None) -> Measured:
    """Trains a model of this step, always from the same seed."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    model: Any = build(step)
    model.compile(
        optimizer=keras.optimizers.AdamW(2e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(
        digits.train_images[:samples] / 127.5 - 1.0,
        digits.train_labels[:samples],
        batch_size=32,
        epochs=epochs,
        verbose=0,
    )
    _, accuracy = model.evaluate(
        digits.test_images / 127.5 - 1.0, digits.test_labels, verbose=0
    )
    return Measured(accuracy, model.count_params(), count_macs(km.fold(model)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    epochs = parser.parse_args().epochs
    for step in STEPS:
        row = measure(step, epochs)
        print(
            f"{step:48} {row.accuracy:6.1%}  {row.parameters:7,} parameters  "
            f"{row.macs / 1e6:5.2f} M MACs"
        )


if __name__ == "__main__":
    main()
