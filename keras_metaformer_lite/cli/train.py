"""`keras-metaformer train`: a folder of photographs in, a model out."""

import enum
import importlib.util
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_metaformer_lite.cli.chosen import chosen_model_or_file
from keras_metaformer_lite.cli.output import (
    FAILED,
    USAGE,
    WEIGHTS,
    print_json,
    say,
    stop,
)
from keras_metaformer_lite.processes import python_command

#: What training imports beyond the package's own dependencies, by module.
REQUIRED = {"matplotlib": "matplotlib", "tensorboardX": "tensorboardX"}
#: Ended by Ctrl-C or SIGTERM, as shells write it.
_STOPPED = {"SIGINT": 130, "SIGTERM": 143}

DType = enum.StrEnum("DType", "float32 bfloat16")


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="A folder with a folder of images for each class (or with `train` and "
            "`val` in it), a .csv or .parquet file of paths and labels, an .npz file, "
            "or tfds:NAME."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A name of `keras-metaformer list`, a .keras file, or the folder of a "
            "run; the recipe's model if left out, or CAFormerS18."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(help="Folder of the run. A run that is there goes on."),
    ] = Path("run"),
    validation: Annotated[
        str | None,
        typer.Option(help="Data to validate with; a part is held out if left out."),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="That part, of every class, between 0 and 1.")
    ] = 0.2,
    split: Annotated[
        str | None, typer.Option(help="Of tfds:NAME, such as train[:90%].")
    ] = None,
    validation_split: Annotated[
        str | None, typer.Option(help="Likewise, to validate with.")
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(help="A recipe's name (--recipe list names them) or .toml file."),
    ] = "finetune",
    print_recipe: Annotated[
        bool, typer.Option("--print", help="Print the resolved recipe, and end.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="That a model of the list starts from: a tag, a file, or none; the "
            "recipe's if left out."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the schedule.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="Images of a step, or auto: measured before training."),
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Steps of one update of the weights.")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The highest; follows the batch size if left out."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width, in pixels.")
    ] = None,
    freeze: Annotated[
        bool, typer.Option("--freeze", help="Train the last layer alone.")
    ] = False,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Another field of the recipe, as NAME=VALUE; may be repeated."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Of recipes that distil: a model's name or a .keras file."),
    ] = None,
    dtype: Annotated[
        DType | None,
        typer.Option(
            help="Of the computation; bfloat16 where the device has it if left out."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that prepare images; never a difference."),
    ] = None,
    check_images: Annotated[
        bool,
        typer.Option(help="Read every image once before training."),
    ] = True,
    checkpoint_every: Annotated[
        str, typer.Option(help="A time such as 10m, or a number of steps.")
    ] = "10m",
    time: Annotated[
        str | None,
        typer.Option(help="End after so long, such as 2h, with a checkpoint."),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="Deterministic operations alone, on GPUs."
        ),
    ] = False,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of this machine to train on together; the batch is divided."
        ),
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="One of several processes, which a launcher such as torchrun or srun "
            "has started with the same command and a common --output.",
        ),
    ] = False,
    model_parallel: Annotated[
        int,
        typer.Option(
            min=1, help="Over how many of the devices large weights are spread (JAX)."
        ),
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="One batch through everything, with a picture of it, and no more.",
        ),
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON at the end.")
    ] = False,
) -> None:
    """Train a classifier on images of your own, or go on with a run.

    Fine-tunes published weights unless a recipe says otherwise. The folder of the run
    gets the models (`best.keras`, ...), which the other commands take, the log, curves
    and pictures. The same command again goes on where a run was interrupted: Ctrl-C
    loses nothing, kill -9 what came after the last checkpoint.

    Examples:

        keras-metaformer train photos/ --model CAFormerS18 --output flowers

        keras-metaformer train photos/ --recipe linear-probe --batch auto --time 2h

        keras-metaformer train --recipe caformer-s18 --print
    """
    overrides = _overrides(
        epochs, batch, accumulate, learning_rate, image_size, freeze, setting
    )
    chosen = None if model is None else _chosen(model)
    if print_recipe or recipe == "list":
        _print_recipes(recipe, chosen, overrides)
        return
    if data is None:
        stop("Name the data: keras-metaformer train PHOTOS", USAGE)
    for option, path in (("DATA", data), ("--validation", validation)):
        if (
            path is not None
            and not path.startswith("tfds:")
            and not Path(path).exists()
        ):
            stop(
                f"{option}: there is no such folder or file. Received: {path!r}", USAGE
            )
    missing = [
        package
        for module, package in REQUIRED.items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        stop(
            f"Training needs {', '.join(missing)}: "
            "pip install 'keras-metaformer[train]'",
            FAILED,
        )
    if deterministic:
        # Read when the backends start.
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    if devices is not None and devices > 1:
        distributed = _in_launched_process(devices)
        devices = None if distributed else devices

    import keras_metaformer
    from keras_metaformer.training.checkpoint import CheckpointError
    from keras_metaformer.training.distribution import ProcessLost
    from keras_metaformer.training.run import TrainingDiverged
    from keras_metaformer_lite.weights.download import DownloadError

    try:
        result = keras_metaformer.train(
            data,
            chosen,
            output=output,
            validation=validation,
            held_out=held_out,
            split=split,
            validation_split=validation_split,
            recipe=recipe,
            weights={None: "recipe", "none": None}.get(weights, weights),
            overrides=overrides,
            teacher=teacher,
            dtype=None if dtype is None else str(dtype),
            seed=seed,
            workers=workers,
            check_images=check_images,
            checkpoint_every=checkpoint_every,
            time_limit=time,
            deterministic=deterministic,
            devices=devices,
            distributed=distributed,
            model_parallel=model_parallel,
            dry_run=dry_run,
            say=_say_aside if json else say,
        )
    except DownloadError as error:
        stop(error, WEIGHTS)
    except (CheckpointError, TrainingDiverged, ProcessLost) as error:
        stop(error, FAILED)
    except (ValueError, ImportError, OSError) as error:
        stop(error, USAGE if isinstance(error, ValueError) else FAILED)
    if json and result.process == 0:
        evaluation = result.evaluation
        print_json(
            {
                "folder": str(result.folder),
                "finished": result.finished,
                "history": result.history,
                "evaluation": None if evaluation is None else evaluation.to_dict(),
            }
        )
    if not result.finished:
        raise typer.Exit(_STOPPED.get(result.reason, 0))


def _in_launched_process(devices: int) -> bool:
    """Whether this is one of PyTorch's processes, of which each has a device.

    Where it should be and is not, the command goes on as `torchrun`, which starts them.
    """
    import keras

    if keras.backend.backend() == "torch" and "LOCAL_RANK" not in os.environ:
        _become_torchrun(devices)
    return keras.backend.backend() == "torch"


def _become_torchrun(devices: int) -> None:
    own = python_command("-c", "from keras_metaformer_lite.cli import main; main()")
    launcher = python_command("-m", "torch.distributed.run", "--standalone")
    launcher += [f"--nproc-per-node={devices}", "--no-python", *own, *sys.argv[1:]]
    os.execv(launcher[0], launcher)


def _say_aside(text: str) -> None:
    say(text, error=True)


def _chosen(model: str) -> str:
    """The name of a model, or the path of a file or run, or the program ends."""
    if Path(model).is_dir():
        return model
    found = chosen_model_or_file(model, ".keras")
    return str(found) if isinstance(found, Path) else found.name


def _overrides(
    epochs: int | None,
    batch: str | None,
    accumulate: int | None,
    learning_rate: float | None,
    image_size: int | None,
    freeze: bool,
    settings: list[str] | None,
) -> dict[str, Any]:
    if batch is not None and batch != "auto" and not batch.isdecimal():
        stop(f"--batch is a number or auto. Received: {batch!r}", USAGE)
    given = {
        "epochs": epochs,
        "batch_size": int(batch) if batch and batch != "auto" else batch,
        "accumulate": accumulate,
        "learning_rate": learning_rate,
        "image_size": image_size,
        "freeze": "backbone" if freeze else None,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    for each in settings or ():
        name, found, value = each.partition("=")
        name = name.strip().replace("-", "_")
        if not found:
            stop(f"--set takes NAME=VALUE. Received: {each!r}", USAGE)
        if name in overrides:
            stop(f"{name} is given twice. Received: --set {each}", USAGE)
        overrides[name] = value.strip()
    return overrides


def _print_recipes(recipe: str, model: str | None, overrides: dict[str, Any]) -> None:
    from keras_metaformer.training import list_recipes, load_recipe

    if recipe == "list":
        say("\n".join(list_recipes()))
        return
    named = model is not None and not Path(model).exists()
    overrides = {key: each for key, each in overrides.items() if each != "auto"}
    try:
        resolved = load_recipe(recipe, model if named else None, overrides)
    except (ValueError, OSError) as error:
        stop(error, USAGE)
    say(resolved.describe())
