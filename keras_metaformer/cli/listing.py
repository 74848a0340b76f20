"""`keras-metaformer list`: the models and what they cost."""

from typing import Annotated

import typer

from keras_metaformer.cli.output import USAGE, print_json, print_rich, stop, table


def list_command(
    pattern: Annotated[
        str, typer.Argument(help="Names to show, with the wildcards * and ?.")
    ] = "*",
    family: Annotated[
        str | None, typer.Option(help="Only this family, such as caformer.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Only models with these weights, such as imagenet_384."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models: family, parameters, operations, resolution, accuracy.

    MACs are multiply-accumulate operations for one image of the resolution. Top-1 is
    the published ImageNet-1k accuracy, in percent, of the weights named beside it.

    Examples:

        keras-metaformer list

        keras-metaformer list "caformer*" --weights imagenet_384
    """
    from keras_metaformer.models.listing import all_models, list_models

    families = dict.fromkeys(model.family for model in all_models())
    if family is not None and family not in families:
        stop(
            f"--family must be one of {', '.join(families)}. Received: {family!r}",
            USAGE,
        )
    try:
        names = list_models(pattern, weights=weights)
    except ValueError as error:
        stop(error, USAGE)
    rows = [
        row
        for name in names
        for row in [_row(name, weights)]
        if family in (None, row["family"])
    ]
    if json:
        print_json(rows)
        return
    if not rows:
        stop(f"No model matches. Received: pattern={pattern!r}", USAGE)
    result = table(
        "Model",
        "Family",
        "Parameters",
        "MACs",
        "Size",
        "Weights",
        "Top-1 %",
        numbers=("Parameters", "MACs", "Size", "Top-1 %"),
    )
    for row in rows:
        result.add_row(
            row["name"],
            row["family"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['macs'] / 1e9:.1f} G",
            str(row["resolution"]),
            row["weights"] or "none published",
            "-" if row["top1"] is None else f"{row['top1']:.1f}",
        )
    print_rich(result)


def _row(name: str, tag: str | None) -> dict:
    """What is said of one model with the asked or else its default weights."""
    from keras_metaformer.models.listing import find_model
    from keras_metaformer.weights import catalogue

    model = find_model(name)
    tag = tag or catalogue.default_tag(name)
    checkpoint = None if tag is None else catalogue.find(name, tag)
    return {
        "name": name,
        "family": model.family,
        "parameters": model.parameters,
        "macs": model.macs,
        "resolution": model.resolution,
        "weights": tag,
        "weights_resolution": None if checkpoint is None else checkpoint.resolution,
        "top1": None if checkpoint is None else checkpoint.top1,
        "all_weights": catalogue.list_weights(name),
    }
