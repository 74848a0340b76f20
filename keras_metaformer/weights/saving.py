"""Weights of a model into a file that other programs read."""

import os
from pathlib import Path

import keras
import numpy as np

from keras_metaformer.weights.disk import replacement
from keras_metaformer.weights.porting import to_state_dict

#: Endings of files with a state dict, whose keys are in a naming.
STATE_DICT_SUFFIXES = (".safetensors", ".npz")
#: Everything that `save_weights_file` writes.
SUFFIXES = (*STATE_DICT_SUFFIXES, ".weights.h5")


def save_weights_file(
    model: keras.Model, path: str | os.PathLike, naming: str = "official"
) -> None:
    """Write the weights of a model, whole or not at all.

    `load_weights_file` and `weights=PATH` of the constructors read the file back bit
    for bit.

    Args:
        model: a model of this library.
        path: ends in `.safetensors` or `.npz`, which hold the state dict of
            `to_state_dict`, or in `.weights.h5`, Keras' own format. A file that is
            there is replaced.
        naming: of the state dict's keys, as in `to_state_dict`.

    Raises:
        ValueError: if the ending is another, or the naming has no names for the model.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    suffix = next((known for known in SUFFIXES if path.name.endswith(known)), None)
    if suffix is None:
        raise ValueError(
            f"The file must end in one of {list(SUFFIXES)}. "
            f"Received: path={os.fspath(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            "The file must be in a folder that exists. "
            f"Received: path={os.fspath(path)!r}"
        )
    state_dict = None if suffix == ".weights.h5" else to_state_dict(model, naming)
    # Keras and NumPy choose or append the ending themselves, so this one has it too.
    with replacement(path, suffix) as temporary:
        if state_dict is None:
            model.save_weights(temporary)
        elif suffix == ".npz":
            np.savez(temporary, allow_pickle=False, **state_dict)
        else:
            from safetensors.numpy import save_file

            save_file(state_dict, temporary)
