"""What `km.explain` finds in small models with fixed weights, as PyTorch computed it.

    KERAS_BACKEND=torch .venv/bin/python -m tests.golden.explained

writes `explained.npz`. It is no reference of others: it holds the backends together.
"""

from pathlib import Path

import numpy as np

import keras_metaformer as km
from tests.layer_checks import randomize
from tests.small_models import EACH_BUILDER, build_small

NAMES = EACH_BUILDER
_FILE = Path(__file__).with_name("explained.npz")


def results(name: str) -> dict[str, np.ndarray]:
    """By the analysis; of large arrays every eighth value."""
    model = build_small(name)
    randomize(model)
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    probe = km.explain.Probe.of(model)
    memory = km.explain.memory(probe, images, keys=[0, 1, 2])
    found = {
        "sparsity": km.explain.sparsity(probe, images).active,
        "means": memory.means[:, ::8],
        "maps": memory.maps,
    }
    if name != "ffnet":  # Whose gradient takes JAX long to compile.
        field = km.explain.receptive_field(probe, images)
        found["receptive_field"] = field.contributions[::8, ::8]
    if km.explain.has_attention(probe):
        rollout = km.explain.attention_rollout(probe, images)
        found |= {stage: each[:, ::8] for stage, each in rollout.weights.items()}
    for method in ("grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam"):
        maps = km.explain.grad_cam(probe, images, [0, 3], method=method)
        found[method] = maps.coarse
    by_pixel = {
        "integrated_gradients": km.explain.integrated_gradients(
            probe, images, [0, 3], steps=4
        ),
        "smooth_grad": km.explain.smooth_grad(probe, images, [0, 3], samples=2),
    }
    for method, each in by_pixel.items():
        found[method] = each.values[:, ::8, ::8]
    return found


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(_FILE) as arrays:
        return {
            key.partition("/")[2]: arrays[key]
            for key in arrays
            if key.startswith(f"{name}/")
        }


def main() -> None:
    found = {
        f"{name}/{key}": array for name in NAMES for key, array in results(name).items()
    }
    np.savez_compressed(_FILE, **found)


if __name__ == "__main__":
    main()
