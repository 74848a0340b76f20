"""`keras-metaformer demo`: train, export and run a small model on real digits."""

import enum
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer.cli.output import FAILED, print_json, print_rich, say, stop, table

# What the demo imports beyond the package's own dependencies, by module.
REQUIRED = {
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "tensorflow": "tensorflow",
    "ai_edge_litert": "ai-edge-litert",
}

# The keys of `demo.models.FAMILIES`, which imports Keras: too much for the
# command's help.
Family = enum.StrEnum(
    "Family",
    "caformer convformer identityformer randformer poolformer poolformerv2 mlpmixer "
    "resmlp gmlp ffnet",
)


def demo(
    output: Annotated[
        Path, typer.Option(help="Directory for the model and the pictures.")
    ] = Path("demo_output"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the digits.")] = 16,
    family: Annotated[
        Family, typer.Option(help="Architecture of the small model.")
    ] = Family.caformer,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, nothing else.")
    ] = False,
) -> None:
    """Train a small model on handwritten digits and run it as a .tflite file.

    Scikit-learn's 1,797 digits, a fifth of them held out; minutes on two cores, no
    download. The model is trained on the backend that KERAS_BACKEND names, saved as
    .keras, exported to .tflite and run by the LiteRT interpreter on every held-out
    digit.

    Examples:

        keras-metaformer demo

        KERAS_BACKEND=jax keras-metaformer demo --family resmlp --output digits
    """
    missing = [
        package
        for module, package in REQUIRED.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        stop(
            f"The demo needs {', '.join(missing)}: "
            "pip install 'keras-metaformer[demo]'",
            FAILED,
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        stop(f"Expected a directory to write to: {error}", FAILED)

    from keras_metaformer.demo.run import run_demo

    report = run_demo(output, epochs, seed, _silent if json else say, family)
    if json:
        print_json(report)
    else:
        _print(report)


def _silent(_: str) -> None:
    """Says nothing."""


def _print(report: dict[str, Any]) -> None:
    keras, litert = report["keras"], report["litert"]
    rows = table("", f"Keras ({report['backend']})", "LiteRT", numbers=("LiteRT",))
    rows.columns[1].justify = "right"
    rows.title = f"{report['held_out']} held-out digits"
    for label, key, form in (
        ("Accuracy", "accuracy", "{:.2%}"),
        ("Size of the file", "bytes", "{:,} bytes"),
        ("Time for one image, median", "milliseconds", "{:.2f} ms"),
    ):
        rows.add_row(label, form.format(keras[key]), form.format(litert[key]))
    rows.add_row("Same answer in both", "", f"{report['agreement']:.2%}")
    rows.add_row(
        "Largest difference in probability", "", f"{report['largest_difference']:.1e}"
    )
    print_rich(rows)
    for label, file in report["files"].items():
        say(f"{label:16} {file}")
