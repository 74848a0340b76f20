"""The papers' ablations on real digits: several seeds, published numbers beside ours.

A table changes one part of a small model and trains every form of it from the same
seeds: each seed has a split of scikit-learn's digits, initial weights and an order of
its own. What is said of a form is its difference to the first one of its table, seed by
seed, with the interval that holds it in 95 of 100 such tables; where that has a zero in
it, the two are not told apart.

Run: python -m examples.ablations [--tables activations scales] [--seeds 5]
     python -m examples.ablations --tables all --csv rows.csv --chart chart.png
"""

import argparse
import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import keras

import keras_metaformer as km
from examples import ffnification
from keras_metaformer import layers
from keras_metaformer.data.digits import Digits, load_digits
from keras_metaformer.demo.training import train

SIZE, CLASSES = 32, 10
DEFAULT_TABLES = ("biases",)

Build = Callable[[int], keras.Model]


@dataclasses.dataclass(frozen=True)
class Form:
    """One form of a model.

    Attributes:
        name: what is changed.
        build: the model of a seed, untrained.
        published: ImageNet-1k top-1 in percent of the paper's model with this change;
            empty where the paper's number is not known here.
    """

    name: str
    build: Build
    published: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Forms that differ in one part; all are compared with the first.

    Attributes:
        title: what differs, and in which model.
        source: what was published, and of which model.
        forms: at least two.
    """

    title: str
    source: str
    forms: tuple[Form, ...]


def hierarchical(mixer: Any, **arguments: Any) -> Build:
    """Three stages of 16 x 16, 8 x 8 and 4 x 4 tokens."""
    scaling = {"residual_scaling": ("none", "residual", "residual")}

    def build(seed: int) -> keras.Model:
        return km.MetaFormer(
            depths=(1, 1, 2),
            widths=(16, 32, 64),
            mixer=mixer,
            stem_kernel_size=3,
            stem_strides=2,
            stem_padding=1,
            input_shape=(SIZE, SIZE, 3),
            classes=CLASSES,
            include_preprocessing=True,
            seed=seed,
            **{**scaling, **arguments},
        )

    return build


def isotropic(mixer: Any) -> Build:
    """Four blocks of ResMLP on 8 x 8 patches."""

    def build(seed: int) -> keras.Model:
        return km.IsotropicMetaFormer(
            depth=4,
            width=64,
            patch_size=4,
            mixer=mixer,
            norm="affine",
            output_norm="affine",
            activation="gelu",
            residual_scaling="layer",
            layer_scale_initial_value=1.0,
            input_shape=(SIZE, SIZE, 3),
            classes=CLASSES,
            include_preprocessing=True,
            seed=seed,
        )

    return build


def convformer(**arguments: Any) -> Build:
    return hierarchical("separable_convolution", **arguments)


def caformer(**arguments: Any) -> Build:
    mixer = ("separable_convolution", "separable_convolution", "self_attention")
    return hierarchical(mixer, **arguments)


def star_relu(**arguments: Any) -> Callable[[], keras.layers.Layer]:
    return lambda: layers.StarReLU(**arguments)


def ffnified(step: str) -> Build:
    return lambda seed: ffnification.build(step, include_preprocessing=True, seed=seed)


_BASELINES = "MetaFormer Baselines for Vision, arXiv 2210.13452, ConvFormer-S18"
# From the papers' 1e-5 so short a training gets nowhere near one.
_LAYER_SCALE = 0.1

TABLES: dict[str, Table] = {
    "activations": Table(
        "Activation, ConvFormer",
        _BASELINES,
        (
            Form("StarReLU", convformer(), "83.0"),
            Form("ReLU", convformer(activation="relu"), "82.1"),
            Form("squared ReLU", convformer(activation="squared_relu"), "82.6"),
            Form("GELU", convformer(activation="gelu"), "82.7"),
        ),
    ),
    "star_relu": Table(
        "Forms of StarReLU, ConvFormer",
        "MetaFormer Baselines for Vision, arXiv 2210.13452; not kept here",
        (
            Form("starts at 1 and 0, both learnt", convformer()),
            Form(
                "starts at 0.894 and -0.447, both learnt",
                convformer(activation=star_relu(initial_values="paper")),
            ),
            Form(
                "the scale alone is learnt",
                convformer(activation=star_relu(learn_bias=False)),
            ),
            Form(
                "the bias alone is learnt",
                convformer(activation=star_relu(learn_scale=False)),
            ),
            Form(
                "0.894 and -0.447 for good",
                convformer(
                    activation=star_relu(
                        initial_values="paper", learn_scale=False, learn_bias=False
                    )
                ),
            ),
        ),
    ),
    "scales": Table(
        "Scale of the residual branches, ConvFormer",
        _BASELINES,
        (
            Form("ResScale, last two stages", convformer(), "83.0"),
            Form("none", convformer(residual_scaling="none"), "82.8"),
            Form(
                "LayerScale",
                convformer(
                    residual_scaling="layer", layer_scale_initial_value=_LAYER_SCALE
                ),
                "82.8",
            ),
            Form(
                "BranchScale: both",
                convformer(
                    residual_scaling="branch", layer_scale_initial_value=_LAYER_SCALE
                ),
                "82.9",
            ),
        ),
    ),
    "biases": Table(
        "Biases, CAFormer",
        "MetaFormer Baselines for Vision, arXiv 2210.13452, CAFormer-S18",
        (
            Form("without", caformer(), "83.6"),
            Form("with", caformer(use_bias=True), "83.5"),
        ),
    ),
    "mixers": Table(
        "Token mixers",
        "MetaFormer Baselines for Vision, arXiv 2210.13452: S12, the last two S18",
        (
            Form("identity", hierarchical("identity", norm="group_norm"), "74.6"),
            Form(
                "random matrices in the last two stages",
                hierarchical(("identity", "random", "random"), norm="group_norm"),
                "76.6",
            ),
            Form("pooling", hierarchical("pooling", norm="group_norm"), "78.0"),
            Form("separable convolutions", convformer(), "83.0"),
            Form("convolutions, then attention", caformer(), "83.6"),
        ),
    ),
    "hybrids": Table(
        "Pooling, and others in the last stages",
        "MetaFormer Is Actually What You Need for Vision, arXiv 2111.11418, S12: "
        "four stages, the first more is of pooling",
        (
            Form("pooling in all", hierarchical("pooling"), "77.2"),
            Form(
                "attention in the last",
                hierarchical(("pooling", "pooling", "self_attention")),
                "78.3",
            ),
            Form(
                "attention in the last two",
                hierarchical(("pooling", "self_attention", "self_attention")),
                "81.0",
            ),
            Form(
                "linear over the tokens in the last",
                hierarchical(("pooling", "pooling", "cross_patch_linear")),
                "77.5",
            ),
            Form(
                "linear over the tokens in the last two",
                hierarchical(("pooling", "cross_patch_linear", "cross_patch_linear")),
                "77.9",
            ),
        ),
    ),
    "resmlp": Table(
        "ResMLP's layer over the tokens",
        "ResMLP, arXiv 2105.03404; not kept here but for the first",
        (
            Form("linear", isotropic("cross_patch_linear"), "76.7"),
            Form("none", isotropic("identity")),
            Form("convolution", isotropic("convolution")),
            Form("depthwise, then pointwise", isotropic("depthwise_separable")),
        ),
    ),
    "ffnification": Table(
        "From self-attention to FFNified attention, step by step",
        "MetaMixer Is All You Need, arXiv 2406.02021; not kept here",
        tuple(Form(step, ffnified(step)) for step in ffnification.STEPS),
    ),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a form came to.

    Attributes:
        table: key of `TABLES`.
        form: what was trained.
        parameters: int. Of the model.
        accuracies: on the digits held out, one for each seed, from 0 to 1.
    """

    table: str
    form: Form
    parameters: int
    accuracies: tuple[float, ...]

    def difference(self, first: "Measured", comparisons: int) -> tuple[float, float]:
        """How much better than another form of the same seeds, and how sure that is.

        Args:
            first: the form to compare with.
            comparisons: int. How many are made in the table (Bonferroni's correction).

        Returns:
            The mean difference of the accuracies, and half the width of its 95 %
            interval, by Student's t over the seeds; infinite for one seed.
        """
        from scipy import stats

        pairs = zip(self.accuracies, first.accuracies, strict=True)
        differences = [own - other for own, other in pairs]
        number = len(differences)
        if number < 2:
            return differences[0], float("inf")
        quantile = float(stats.t.ppf(1 - 0.025 / comparisons, number - 1))
        return mean(differences), quantile * stdev(differences) / number**0.5


def measure(
    name: str, seeds: int = 3, epochs: int = 6, samples: int | None = None
) -> list[Measured]:
    """Trains every form of a table.

    Args:
        name: key of `TABLES`.
        seeds: int. How often each is trained.
        epochs: int. Of each training.
        samples: int. Training images; None for all.
    """
    found = []
    for form in TABLES[name].forms:
        accuracies, parameters = [], 0
        for seed in range(seeds):
            keras.utils.clear_session()
            keras.utils.set_random_seed(seed)
            digits = load_digits(SIZE, seed=seed)
            digits = digits._replace(
                train_images=digits.train_images[:samples],
                train_labels=digits.train_labels[:samples],
            )
            model = form.build(seed)
            parameters = model.count_params()
            accuracies.append(_accuracy(model, digits, epochs, seed))
        found.append(Measured(name, form, parameters, tuple(accuracies)))
    return found


def _accuracy(model: keras.Model, digits: Digits, epochs: int, seed: int) -> float:
    return float(train(model, digits, epochs, seed)["val_accuracy"][-1])


def verdict(difference: float, half: float) -> str:
    """What the seeds allow to say."""
    if abs(difference) <= half:
        return "not told apart"
    return "better" if difference > 0 else "worse"


def text(rows: Sequence[Measured]) -> str:
    """The rows of one table in Markdown."""
    table, first = TABLES[rows[0].table], rows[0]
    lines = [
        f"{table.title} (published: {table.source})",
        "",
        "| | parameters | digits | difference | | published |",
        "|---|--:|--:|--:|---|--:|",
    ]
    for row in rows:
        cells = [row.form.name, f"{row.parameters:,}", f"{mean(row.accuracies):.1%}"]
        if row is first:
            cells += ["", ""]
        else:
            difference, half = row.difference(first, len(rows) - 1)
            shown = f"{100 * difference:+.1f} ± {100 * half:.1f}"
            cells += [shown, verdict(difference, half)]
        lines.append("| " + " | ".join([*cells, row.form.published]) + " |")
    return "\n".join(lines)


def write_csv(rows: Sequence[Measured], path: Path) -> None:
    """Write one row for each form and seed."""
    path.write_text(_csv(rows), encoding="utf-8", newline="")


def _csv(rows: Sequence[Measured]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("table", "form", "parameters", "seed", "accuracy", "published"))
    for row in rows:
        for seed, accuracy in enumerate(row.accuracies):
            writer.writerow(
                (
                    row.table,
                    row.form.name,
                    row.parameters,
                    seed,
                    f"{accuracy:.4f}",
                    row.form.published,
                )
            )
    return file.getvalue()


def read_csv(path: Path) -> list[list[Measured]]:
    """Read what `write_csv` wrote, table by table.

    Raises:
        ValueError: if it did not write the file so, of whole tables of this program,
            with the same seeds for all forms of a table.
    """
    tables: dict[str, list[Measured]] = {}
    try:
        text = path.read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        for name in dict.fromkeys(row["table"] for row in rows):
            for form in TABLES[name].forms:
                own = [
                    row
                    for row in rows
                    if (row["table"], row["form"]) == (name, form.name)
                ]
                accuracies = tuple(float(row["accuracy"]) for row in own)
                measured = Measured(name, form, int(own[0]["parameters"]), accuracies)
                tables.setdefault(name, []).append(measured)
        found = list(tables.values())
        # Nothing more, nothing less, and in this order.
        is_whole = bool(found) and text == _csv(
            [row for table in found for row in table]
        )
        is_whole &= all(
            len({len(row.accuracies) for row in table}) == 1 for table in found
        )
        is_whole &= all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{_EXPECTED} Received: {path} ({error!r})") from error
    if not is_whole:
        raise ValueError(f"{_EXPECTED} Received: {path}")
    return found


_EXPECTED = (
    "A file of `--csv` was expected: whole tables of this program, each form with the "
    "same seeds from 0 on, and accuracies from 0 to 1."
)


def draw(tables: Sequence[Sequence[Measured]], path: Path) -> None:
    """Draw a panel for each table: a dot for each seed, a bar for their mean."""
    from matplotlib.figure import Figure

    heights = [len(rows) + 1.5 for rows in tables]
    figure = Figure(figsize=(9, 0.3 * sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(
        len(tables), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for panel, rows in zip(panels, tables, strict=True):
        for place, row in enumerate(rows):
            percents = [100 * accuracy for accuracy in row.accuracies]
            panel.plot(percents, [place] * len(percents), "o", color="#1f5fa8", ms=4)
            panel.plot(mean(percents), place, "|", color="#e07b00", ms=16, mew=2.5)
            panel.annotate(
                row.form.published,
                (1.02, place),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8,
            )
        panel.set_yticks(range(len(rows)), [row.form.name for row in rows], fontsize=8)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_title(TABLES[rows[0].table].title, fontsize=9, loc="left")
        panel.annotate(
            "published",
            (1.02, 1.0),
            xycoords="axes fraction",
            xytext=(0, 5),
            textcoords="offset points",
            fontsize=8,
        )
        panel.tick_params(axis="x", labelsize=8)
        panel.grid(axis="x", color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel(
        "% of the digits held out: a dot for each seed, a bar for the mean; at the "
        "right ImageNet-1k top-1 as published",
        fontsize=8,
    )
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--tables",
        nargs="+",
        default=DEFAULT_TABLES,
        choices=(*TABLES, "all"),
        help="minutes each (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--csv", type=Path, help="file for the rows")
    parser.add_argument("--chart", type=Path, help="PNG for the chart")
    arguments = parser.parse_args()
    names = list(TABLES) if "all" in arguments.tables else arguments.tables
    measured = []
    for name in names:
        measured.append(measure(name, arguments.seeds, arguments.epochs))
        print(text(measured[-1]), end="\n\n", flush=True)
        # After each, so that little is lost.
        if arguments.csv:
            write_csv([row for rows in measured for row in rows], arguments.csv)
        if arguments.chart:
            draw(measured, arguments.chart)


if __name__ == "__main__":
    main()
