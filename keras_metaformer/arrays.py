"""Tensors of any backend as NumPy arrays."""

from typing import Any

import numpy as np
from keras import ops


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor or variable of the active backend as a NumPy array of its dtype."""
    return np.asarray(ops.convert_to_numpy(tensor))
