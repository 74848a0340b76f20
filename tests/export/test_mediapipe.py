"""The exported file in MediaPipe's ImageClassifier, as an app would open it."""

import numpy as np
import pytest

from keras_metaformer.export import LiteRTModel, to_litert
from tests.export.models import hierarchical

pytestmark = pytest.mark.backend_independent

LABELS = [f"class {letter}" for letter in "abcdefghij"]


@pytest.mark.parametrize(
    ("input_type", "quantize"),
    [("float32", None), ("uint8", "float16"), ("float32", "dynamic")],
)
def test_same_scores_as_litert(input_type, quantize, tmp_path):
    try:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision
    except (ImportError, OSError) as error:  # it opens libEGL and libGLESv2
        pytest.skip(f"needs mediapipe, libegl1 and libgles2: {error}")
    path = tmp_path / "model.tflite"
    model = hierarchical(include_preprocessing=True)
    to_litert(
        model,
        path,
        quantize,
        labels=LABELS,
        input_type=input_type,
        allow_inexact=True,
        check_gpu=False,
        latency_runs=0,
        verbose=False,
    )
    options = vision.ImageClassifierOptions(
        base_options=BaseOptions(model_asset_path=str(path))
    )
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")
    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        (head,) = classifier.classify(image).classifications
    scores = {entry.category_name: entry.score for entry in head.categories}
    expected = LiteRTModel(path).predict(pixels)[0]
    assert expected.max() - expected.min() > 0.01
    assert scores == pytest.approx(
        dict(zip(LABELS, map(float, expected), strict=True)), abs=1e-5
    )
