"""An argument of a builder acts, whatever the mixers are, or the call is refused."""

import inspect
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.arrays import to_numpy
from keras_metaformer.layers.mixers.table import CHANNEL_MIXERS, TOKEN_MIXERS
from keras_metaformer.models.arguments import ApplicationArguments
from keras_metaformer.models.block_config import BlockConfig
from tests.layer_checks import randomize

# What is refused, and what acts, is the same on every backend.
pytestmark = pytest.mark.one_backend

IMAGES = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
BASE: dict[str, Any] = {
    "depths": (1, 1),
    "widths": (8, 16),
    "input_shape": IMAGES.shape[1:],
    "classes": 3,
    "classifier_activation": None,
}
#: For each argument another value than the default. What it needs beside it to have a
#: meaning (a rate for the schedule of rates, something random for the seed) is given
#: to both models that are compared.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "depths": ((1, 2), {}),
    "widths": ((8, 24), {}),
    "activation": ("relu", {}),
    "norm": ("batch_norm", {}),
    "norm_epsilon": (0.1, {}),
    "residual_scaling": ("branch", {}),
    "residual_scale_initial_value": (2.0, {}),
    "layer_scale_initial_value": (0.5, {}),
    "use_bias": (True, {}),
    "mlp_ratio": (2, {}),
    "mlp_dropout": (0.5, {}),
    "gradient_checkpointing": (True, {}),
    "position_embedding": (True, {}),
    "stem_kernel_size": (5, {}),
    "stem_strides": (2, {}),
    "stem_padding": (3, {}),
    "downsampling_norm": ("identity", {}),
    "downsampling_kernel_size": (5, {}),
    "downsampling_padding": (2, {}),
    "output_norm": ("affine", {}),
    "normalize_before_pooling": (True, {}),
    "head": ("mlp", {}),
    "head_ratio": (2, {}),
    "head_activation": ("relu", {}),
    "head_norm": ("identity", {}),
    "initialization": ("mlp_mixer", {}),
    "stochastic_depth_rate": (0.5, {}),
    "stochastic_depth_schedule": ("constant", {"stochastic_depth_rate": 0.5}),
    "head_dropout": (0.5, {}),
    "seed": (3, {"head_dropout": 0.5, "seed": 4}),
}
#: What none of these mixers, without another channel mixer, has a use for.
_LINEAR = {"convolution", "depthwise_separable", "self_attention", "cross_patch_linear"}
_WITHOUT_WEIGHTS = {"identity", "random", "pooling"}
REFUSED = {
    "activation": _LINEAR | _WITHOUT_WEIGHTS,
    "mlp_ratio": set(TOKEN_MIXERS) - {"gated_mlp"},
    "mlp_dropout": set(TOKEN_MIXERS) - {"gated_mlp", "token_mlp"},
    "layer_scale_initial_value": set(TOKEN_MIXERS),
    "head_ratio": set(TOKEN_MIXERS),
    "head_activation": set(TOKEN_MIXERS),
    "head_norm": set(TOKEN_MIXERS),
}


def test_every_argument_is_tried():
    shared = set(inspect.signature(ApplicationArguments).parameters)
    mine = set(inspect.signature(km.MetaFormer).parameters) - shared
    assert mine == {*CHANGES, "mixer", "channel_mixer"}


#: What acts on blocks and mixers; the rest of a model does not depend on them.
OF_BLOCKS = {"initialization", *inspect.signature(BlockConfig).parameters} & {*CHANGES}


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_each_argument_acts_on_each_mixer_or_is_refused(mixer, monkeypatch):
    names = CHANGES if mixer == "pooling" else OF_BLOCKS
    refused = _refused(monkeypatch, names, mixer=mixer, channel_mixer="none")
    assert refused == {
        name for name in names if name in REFUSED and mixer in REFUSED[name]
    }


@pytest.mark.parametrize("channel_mixer", CHANNEL_MIXERS)
def test_each_argument_acts_on_each_channel_mixer_or_is_refused(
    channel_mixer, monkeypatch
):
    refused = _refused(
        monkeypatch, OF_BLOCKS, mixer="pooling", channel_mixer=channel_mixer
    )
    assert refused == {"layer_scale_initial_value"}


def _refused(monkeypatch: Any, names: Iterable[str], **arguments: Any) -> set[str]:
    return {name for name in names if not _acts(monkeypatch, name, **arguments)}


@pytest.mark.parametrize("name", ["head_ratio", "head_activation", "head_norm"])
def test_the_parts_of_an_mlp_head(name, monkeypatch):
    assert _acts(monkeypatch, name, head="mlp")


@pytest.mark.parametrize(
    ("scaling", "acts"),
    [("none", (False, False)), ("layer", (False, True)), ("residual", (True, False))],
)
def test_initial_values_of_scales(scaling, acts, monkeypatch):
    names = ("residual_scale_initial_value", "layer_scale_initial_value")
    for name, expected in zip(names, acts, strict=True):
        assert _acts(monkeypatch, name, residual_scaling=scaling) == expected


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: km.ResMLP12(weights=None, norm_epsilon=0.1), "norm_epsilon"),
        (
            lambda: km.PoolFormerS12(weights=None, residual_scale_initial_value=2.0),
            "residual_scale_initial_value",
        ),
        (lambda: km.GMLPTi16(weights=None, head_ratio=2), "head_ratio"),
        (
            lambda: km.IsotropicMetaFormer(
                1, 8, 8, mixer="pooling", channel_mixer="none", mlp_ratio=2
            ),
            "mlp_ratio",
        ),
        (
            # Of a stage's own values each has to act on its stage.
            lambda: km.MetaFormer(
                **BASE, channel_mixer=("mlp", "none"), mlp_dropout=(0.1, 0.2)
            ),
            "mlp_dropout",
        ),
    ],
)
def test_named_models_and_single_stages_refuse_too(call, name):
    with pytest.raises(ValueError, match=f"^`{name}` would change nothing: .*Received"):
        call()


def test_what_is_given_as_it_is_by_default_is_not_refused():
    arguments = {"mlp_ratio": None, "mlp_dropout": 0.0, "head_ratio": 4.0}
    km.MetaFormer(**BASE, mixer="pooling", channel_mixer="none", **arguments)
    km.MetaFormer(**BASE, channel_mixer=["mlp", "none"], mlp_dropout=[0.1, 0.0])


def _acts(monkeypatch: Any, name: str, **arguments: Any) -> bool:
    """Whether an argument changes the model; False where it is refused, in words."""
    value, beside = CHANGES[name]
    arguments = {**BASE, **beside, **arguments}
    try:
        changed = _build(**{**arguments, name: value})
    except ValueError as error:
        assert str(error).startswith(f"`{name}` would change nothing: ")
        assert f"Received: {name}={value!r}" in str(error)
        return False
    key = repr(sorted(arguments.items()))
    if key not in _UNCHANGED:
        _UNCHANGED[key] = _traits(monkeypatch, _build(**arguments))
    traits = _traits(monkeypatch, changed)
    assert traits != _UNCHANGED[key], f"{name} was taken and ignored"
    return True


#: Traits of models, by their arguments.
_UNCHANGED: dict[str, Any] = {}


def _build(**arguments: Any) -> Any:
    # Two equal models then start alike, and drop alike.
    keras.utils.set_random_seed(0)
    return km.MetaFormer(**arguments)


def _traits(monkeypatch: Any, model: Any) -> list[Any]:
    """What a model is to someone who uses and trains it."""
    weights = [(weight.path, to_numpy(weight).tolist()) for weight in model.weights]
    randomize(model)
    recomputed = []
    monkeypatch.setattr(
        keras, "remat", lambda call: recomputed.append(call) or call, raising=True
    )
    outputs = [
        to_numpy(model(IMAGES, training=training)).round(4).tolist()
        for training in (False, True, True)
    ]
    monkeypatch.undo()
    return [weights, outputs, len(recomputed)]
