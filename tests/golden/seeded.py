"""Deterministic weights and images for checking a port against its reference.

A golden case does not carry 100 MB of weights. It carries the reference's
state-dict keys and shapes, a seed, and the logits that the reference computed
with the weights that `seeded_state_dict` makes from them. Rebuild the same
weights, load them through the project's converter, and compare the logits.

Needs NumPy alone.
"""

import zlib

import numpy as np


def seeded_array(key, shape, dtype="float32", seed=0):
    """Value of one tensor: a function of its key, shape and the seed only.

    Matrices and convolution kernels are uniform with variance 1 / fan_in,
    norm and residual scales near 1, layer scales near 0.3, batch-norm scales
    near 0.5, biases near 0, running variances in [0.5, 1.5): activations stay
    of moderate size through 48 blocks, and no term is negligible.
    """
    shape = tuple(shape)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{seed}:{key}".encode())))
    if dtype.startswith("int"):
        return np.ones(shape, dtype)
    unit = rng.random(shape)  # [0, 1)
    signed = 2.0 * unit - 1.0
    leaf = key.replace("/", ".").rsplit(".", 1)[-1]
    if leaf == "running_var":
        value = 0.5 + unit
    elif leaf in ("alpha", "scale"):
        value = 1.0 + 0.25 * signed
    elif leaf in ("ls1", "ls2", "gamma_1", "gamma_2") or "layer_scale" in key:
        value = 0.3 + 0.1 * signed
    elif key.endswith("bn.weight"):
        value = 0.5 + 0.1 * signed
    elif len(shape) >= 2:
        fan_in = int(np.prod(shape[1:]))
        value = signed * np.sqrt(3.0 / fan_in)
    elif leaf == "weight":
        value = 1.0 + 0.25 * signed
    else:
        value = 0.25 * signed
    return value.astype(dtype)


def seeded_state_dict(entries, seed=0):
    """`{key: array}` for entries of `[key, shape, dtype]`."""
    return {k: seeded_array(k, s, d, seed) for k, s, d in entries}


def seeded_images(batch, height, width, seed=0):
    """Normalised images, `(batch, height, width, 3)` float32, channels last.

    Flat 32-pixel squares under noise: like photographs, they differ from one
    place to another, so a transposed or shifted spatial axis shows.
    """
    rng = np.random.Generator(np.random.PCG64(10_000 + seed))
    rows, cols = -(-height // 32), -(-width // 32)
    squares = 3.0 * rng.random((batch, rows, cols, 3)) - 1.5
    image = squares.repeat(32, axis=1).repeat(32, axis=2)
    image = image[:, :height, :width]
    noise = rng.random((batch, height, width, 3)) - 0.5
    return (image + noise).astype("float32")
