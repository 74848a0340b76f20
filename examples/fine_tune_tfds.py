"""A model fine-tuned on a data set of TensorFlow Datasets.

Run: python examples/fine_tune_tfds.py [--name tf_flowers] [--model ConvFormerS18]

TensorFlow Datasets downloads and prepares what is not there. It needs no TensorFlow:
`pip install "keras-metaformer[jax,train]"` is enough.
"""

import argparse
from pathlib import Path

import keras_metaformer as km
from keras_metaformer.data import open_source


def fine_tune(
    name: str,
    output: Path,
    model: str,
    training: str = "train[:80%]",
    validation: str = "train[80%:]",
    data_dir: Path | None = None,
    **overrides: object,
) -> float:
    """The accuracy on the validation part."""
    parts = [
        open_source(f"tfds:{name}", split=split, data_dir=data_dir)
        for split in (training, validation)
    ]
    result = km.train(
        parts[0], model, validation=parts[1], output=output, overrides=overrides
    )
    assert result.accuracy is not None
    return result.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="tf_flowers")
    parser.add_argument("--output", type=Path, default=Path("run"))
    parser.add_argument("--model", default="ConvFormerS18")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    accuracy = fine_tune(
        arguments.name, arguments.output, arguments.model, epochs=arguments.epochs
    )
    print(f"{accuracy:.2%} right")


if __name__ == "__main__":
    main()
