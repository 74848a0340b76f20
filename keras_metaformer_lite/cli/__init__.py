"""The command `keras-metaformer`."""

import os
import warnings
from typing import Annotated

import typer

from keras_metaformer_lite import __version__
from keras_metaformer_lite.backends import choose_installed_backend
from keras_metaformer_lite.cli import weights
from keras_metaformer_lite.cli.benchmark import benchmark
from keras_metaformer_lite.cli.classify import classify
from keras_metaformer_lite.cli.convert import convert
from keras_metaformer_lite.cli.demo import demo
from keras_metaformer_lite.cli.evaluate import evaluate
from keras_metaformer_lite.cli.explain import compare, explain
from keras_metaformer_lite.cli.export import export
from keras_metaformer_lite.cli.listing import list_command
from keras_metaformer_lite.cli.output import prepare_streams
from keras_metaformer_lite.cli.predict import predict
from keras_metaformer_lite.cli.train import train
from keras_metaformer_lite.cli.web import web
from keras_metaformer_lite.processor import ONE_DNN_VARIABLE, gains_from_one_dnn

app = typer.Typer(
    name="keras-metaformer",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # paragraphs of the help fill the terminal
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""MetaFormer image models in Keras 3.

    Set KERAS_BACKEND to tensorflow, jax or torch to choose what runs them; else it is
    the first of these that is installed, or what ~/.keras/keras.json says.

    Exit codes: 0 all went well; 1 something of what was asked for failed, such as one
    image of several; 2 the command line makes no sense; 3 weights could not be loaded.
    """,
)


def _print_version(asked_for: bool) -> None:
    if asked_for:
        typer.echo(f"keras-metaformer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Options of the program itself; its help is the app's."""


app.command("list")(list_command)
app.command("benchmark")(benchmark)
app.command("classify")(classify)
app.command("compare")(compare)
app.command("convert")(convert)
app.command("demo")(demo)
app.command("evaluate")(evaluate)
app.command("explain")(explain)
app.command("export")(export)
app.command("predict")(predict)
app.command("train")(train)
app.command("web")(web)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Run the command line."""
    prepare_streams()
    # The process is the command's own, and TensorFlow logs in C++, wherever it is
    # imported, what no one asked for.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    choose_installed_backend()
    if gains_from_one_dnn():
        os.environ.setdefault(ONE_DNN_VARIABLE, "1")
    # What Pillow says of a damaged file stands in the error, if it is one.
    warnings.filterwarnings("ignore", module="PIL")
    app()
