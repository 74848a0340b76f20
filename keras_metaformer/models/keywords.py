"""What users of other libraries write for an argument here."""

import inspect
import re
from collections.abc import Iterable
from typing import Any

from keras_metaformer_lite.names import question

#: For a word of timm, torchvision or Keras what it is here.
FOREIGN_WORDS = {
    "num_classes": "`classes`",
    "pretrained": "`weights`",
    "checkpoint_path": "`weights`, which takes a path too",
    "pretrained_cfg": "`weights`, which takes a tag of `km.list_weights`",
    "in_chans": "`input_shape=(height, width, channels)`",
    "in_channels": "`input_shape=(height, width, channels)`",
    "img_size": "`input_shape=(height, width, channels)`",
    "image_size": "`input_shape=(height, width, channels)`",
    "input_size": "`input_shape=(height, width, channels)`",
    "global_pool": "`pooling`",
    "drop_rate": "`head_dropout`",
    "dropout": "`head_dropout`",
    "dropout_rate": "`head_dropout`",
    "proj_drop_rate": "`mlp_dropout`",
    "drop_path": "`stochastic_depth_rate`",
    "drop_path_rate": "`stochastic_depth_rate`",
    "drop_connect_rate": "`stochastic_depth_rate`",
    "stochastic_depth_prob": "`stochastic_depth_rate`",
    "dims": "`widths`",
    "embed_dims": "`widths`",
    "embed_dim": "`width`",
    "num_blocks": "`depth`",
    "layers": "`depths`",
    "token_mixer": "`mixer`",
    "token_mixers": "`mixer`",
    "mlp_ratios": "`mlp_ratio`",
    "act_layer": "`activation`",
    "mlp_act": "`activation`",
    "norm_layer": "`norm`",
    "norm_layers": "`norm`",
    "layer_scale_init_value": "`layer_scale_initial_value`",
    "layer_scale_init_values": "`layer_scale_initial_value`",
    "res_scale_init_values": "`residual_scale_initial_value`",
    "grad_checkpointing": "`gradient_checkpointing`",
    "include_rescaling": "`include_preprocessing`",
    "head_dim": "`mixer=km.layers.SelfAttentionMixer(head_dim=...)`",
    "features_only": "`km.feature_extractor`, of a model",
}


def check_keywords(function: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse unknown keywords, with what they are called here.

    Raises:
        TypeError: for the first of `given` that is not among `known`.
    """
    known = list(known)
    for name in given:
        if name not in known:
            word = FOREIGN_WORDS.get(name)
            fits = word is not None and _is_of(known, word)
            hint = f" Here it is {word}." if fits else question(name, known)
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}.{hint} "
                f"Expected some of {known}. Received: {name!r}"
            )


def _is_of(known: list[str], word: str) -> bool:
    """Whether a word of `FOREIGN_WORDS` stands for one of the known arguments."""
    argument = re.match(r"`(\w+)", word)
    return argument is None or argument[1] in known


def bind(
    function: str, signature: inspect.Signature, args: tuple, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, without those that were left alone.

    Raises:
        TypeError: if they are not those of the signature.
    """
    check_keywords(function, kwargs, signature.parameters)
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{function}(): {error}") from None
