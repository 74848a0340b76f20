"""The command `keras-metaformer`."""

import typer

from keras_metaformer.cli import weights
from keras_metaformer.cli.benchmark import benchmark
from keras_metaformer.cli.classify import classify
from keras_metaformer.cli.convert import convert
from keras_metaformer.cli.demo import demo
from keras_metaformer.cli.export import export
from keras_metaformer.cli.listing import list_command
from keras_metaformer.cli.web import web

app = typer.Typer(
    name="keras-metaformer",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # paragraphs of the help fill the terminal
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""MetaFormer image models in Keras 3.

    Set KERAS_BACKEND to tensorflow, jax or torch to choose what runs them.

    Exit codes: 0 all went well; 1 something of what was asked for failed, such as one
    image of several; 2 the command line makes no sense; 3 weights could not be loaded.
    """,
)
app.command("list")(list_command)
app.command("benchmark")(benchmark)
app.command("classify")(classify)
app.command("convert")(convert)
app.command("demo")(demo)
app.command("export")(export)
app.command("web")(web)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Run the command line."""
    app()
