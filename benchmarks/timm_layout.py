"""Checks that what `km.save` writes loads in timm, strictly, with the same logits.

    python -m benchmarks.timm_layout            # needs `make peers`

Random weights of each model are written in timm's layout, loaded by timm in its own
environment, and both are given the same images; then the way back, from what timm's
`save_for_hf` writes. Differences are of the largest logit.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.make_peers import DEFAULT

MODELS = ("CAFormerS18", "ConvFormerS18", "PoolFormerV2S12", "ResMLP12", "GMLPS16")
TOLERANCE = 2e-5

#: Runs in the environment that has timm: folder, images, output folder.
IN_TIMM = """
import json, sys
from pathlib import Path
import numpy as np, timm, torch
from safetensors.torch import load_file
from timm.models import save_for_hf
folder, images, back = map(Path, sys.argv[1:])
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
weights = load_file(folder / "model.safetensors")
model.load_state_dict(weights, strict=True)
batch = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2)
with torch.inference_mode():
    np.save(folder / "logits.npy", model(batch).numpy())
save_for_hf(model, back, safe_serialization=True)
"""


def check(name: str, python: str, folder: Path) -> tuple[float, float]:
    """The largest differences of the logits, there and back."""
    import numpy as np

    import keras_metaformer as km
    from keras_metaformer.arrays import to_numpy

    model: Any = getattr(km, name)(
        weights=None, classes=11, classifier_activation=None, name="mine"
    )
    generator = np.random.default_rng(0)
    for weight in model.weights:  # no scale at 1, no bias at 0
        noise = 0.05 * generator.normal(size=weight.shape)
        weight.assign(to_numpy(weight.value) + noise)
    images = generator.normal(size=(2, *model.input_shape[1:]), scale=0.5)
    images = images.astype("float32")
    np.save(folder / "images.npy", images)
    km.save(model, folder / "there", architecture=name)
    arguments = (folder / "there", folder / "images.npy", folder / "back")
    subprocess.run([python, "-c", IN_TIMM, *map(str, arguments)], check=True)
    expected = model.predict(images, verbose=0)
    there = np.load(folder / "there" / "logits.npy")
    back: Any = km.load(folder / "back")
    largest = np.abs(expected).max()
    there, back = (
        float(np.abs(found - expected).max() / largest)
        for found in (there, back.predict(images, verbose=0))
    )
    return there, back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--python", help="that has timm; that of `make peers` if left")
    options = parser.parse_args()
    folder = "Scripts" if os.name == "nt" else "bin"
    python = options.python or str(DEFAULT / folder / "python")
    failed = False
    for name in options.models:
        with tempfile.TemporaryDirectory() as work:
            there, back = check(name, python, Path(work))
        failed |= max(there, back) > TOLERANCE
        print(f"{name}: {there:.1e} in timm, {back:.1e} back from timm", flush=True)
    if failed:
        sys.exit(f"Some differ by more than {TOLERANCE:.0e} of the largest logit.")


if __name__ == "__main__":
    main()
