"""A model fine-tuned on photographs of your own: a folder for each class.

Run: python examples/fine_tune_folder.py FOLDER [--model CAFormerS18] [--epochs 20]

The same as `keras-metaformer train photographs/ --output run`. Started again, it goes
on where it was interrupted.
"""

import argparse
from pathlib import Path

import keras_metaformer as km


def fine_tune(
    photographs: Path, output: Path, model: str, **overrides: object
) -> dict[str, str]:
    """What the trained model says of each validation image that it got wrong."""
    result = km.train(photographs, model, output=output, overrides=overrides)
    print(f"{result.accuracy:.2%} of the validation images right")

    # The run's folder stands for its best model, here and in every command.
    files = sorted(photographs.rglob("*.png")) + sorted(photographs.rglob("*.jpg"))
    found = km.predict(output, files)
    assert found.class_names is not None
    return {
        name: found.class_names[scores.argmax()]
        for name, scores in zip(found.names, found.values, strict=True)
        if found.class_names[scores.argmax()] != Path(name).parent.name
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--output", type=Path, default=Path("run"))
    parser.add_argument("--model", default="CAFormerS18")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    wrong = fine_tune(
        arguments.photographs,
        arguments.output,
        arguments.model,
        epochs=arguments.epochs,
    )
    for name, answer in wrong.items():
        print(f"{name}: {answer}")


if __name__ == "__main__":
    main()
