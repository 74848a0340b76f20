"""Tensors of any backend as NumPy arrays."""

import sys
from typing import Any

import keras
import numpy as np
from keras import ops


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor or variable of the active backend as a NumPy array of its dtype."""
    if keras.backend.backend() == "tensorflow":
        tf: Any = sys.modules["tensorflow"]
        if isinstance(tensor, tf.distribute.DistributedValues):
            # A variable with a copy, or a part of a sum, in each replica.
            tensor = tf.convert_to_tensor(tensor)
    return np.asarray(ops.convert_to_numpy(tensor))


def values_of(tensor: Any) -> np.ndarray | None:
    """A tensor as a NumPy array, or None where it has no values to look at.

    Symbolic tensors have none, nor those that a compiler is tracing.
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    if isinstance(tensor, keras.KerasTensor) or not ops.is_tensor(tensor):
        return None
    backend = keras.backend.backend()
    module: Any = sys.modules.get(backend)
    if backend == "jax" and isinstance(tensor, module.core.Tracer):
        return None
    if backend == "tensorflow" and not hasattr(tensor, "numpy"):
        return None
    if backend == "torch" and module.compiler.is_compiling():
        return None
    return to_numpy(tensor)
