"""The page's own resizing, in Node.js, against Pillow's."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from keras_metaformer_lite.images import INTERPOLATIONS, EvaluationTransform
from tests.web.browser import APPLICATION

pytestmark = pytest.mark.backend_independent

RESOLUTION = 48
PROGRAM = """
import { readFileSync, writeFileSync } from "node:fs";
const [module, folder] = process.argv.slice(1);
const { resizeAndCrop } = await import(module);
for (const { name, width, height, transform } of JSON.parse(readFileSync(0))) {
  const data = new Uint8ClampedArray(readFileSync(`${folder}/${name}`));
  const bytes = resizeAndCrop({ width, height, data }, %d, transform);
  writeFileSync(`${folder}/${name}.resized`, bytes);
}
"""


def test_every_byte_is_pillows(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js: apt-get install nodejs")
    rng = np.random.default_rng(0)
    cases, expected = [], {}
    for width, height in [(200, 133), (133, 200), (48, 48), (31, 20), (999, 1000)]:
        # Noise, and edges at which the filters overshoot 0 and 255.
        image = rng.integers(0, 256, (height, width, 3)).astype("uint8")
        image[:, : width // 2] = 255 * (image[:, : width // 2] > 127)
        for interpolation in INTERPOLATIONS:
            for crop_fraction, squash in [(1.0, False), (0.875, False), (0.95, True)]:
                name = f"{width}-{height}-{interpolation}-{crop_fraction}"
                alpha = np.full((height, width, 1), 255, "uint8")
                (tmp_path / name).write_bytes(np.dstack([image, alpha]).tobytes())
                transform = EvaluationTransform(
                    RESOLUTION, crop_fraction, interpolation, squash=squash
                )
                expected[name] = transform(image, normalise=False)
                own = {
                    "cropFraction": crop_fraction,
                    "interpolation": interpolation,
                    "squash": squash,
                }
                cases.append(
                    {"name": name, "width": width, "height": height, "transform": own}
                )
    module = (APPLICATION / "page" / "resize.js").as_uri()
    program = PROGRAM % RESOLUTION
    subprocess.run(
        [node, "--input-type=module", "-e", program, module, str(tmp_path)],
        input=json.dumps(cases),
        text=True,
        check=True,
    )
    for name, pixels in expected.items():
        resized = np.frombuffer((tmp_path / f"{name}.resized").read_bytes(), "uint8")
        np.testing.assert_array_equal(resized.reshape(pixels.shape), pixels, name)
