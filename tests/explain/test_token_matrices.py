"""Token-mixing matrices are what the layers multiply by."""

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.explain.parts import parts_by_path
from tests.layer_checks import to_numpy
from tests.small_models import TIED_TO_A_SIZE, build_small, metaformer


@pytest.mark.one_backend
@pytest.mark.parametrize("family", TIED_TO_A_SIZE)
def test_matrices_equal_the_weights(family):
    if family == "poolformer_hybrids":  # Whose small model has attention.
        model = metaformer(("pooling", "cross_patch_linear"))
    else:
        model = build_small(family)

    found = km.explain.token_matrices(model)

    parts = parts_by_path(model)
    for path, matrix in found.matrices.items():
        outputs, inputs = found.grids[path]
        assert outputs is None or np.prod(outputs) == matrix.shape[0]
        assert inputs is None or np.prod(inputs) == matrix.shape[1]
        # What the layer makes of a one in each token, which has a channel of its own.
        ones = np.eye(matrix.shape[1], dtype="float32")[np.newaxis]
        zeros = np.zeros_like(ones)
        answers = to_numpy(parts[path](ones)) - to_numpy(parts[path](zeros))
        np.testing.assert_allclose(answers[0], matrix, atol=1e-6)
    assert km.explain.has_token_matrices(model)
    assert found.png()[:4] == b"\x89PNG"


@pytest.mark.one_backend
def test_every_matrix_of_a_mixer_is_there():
    model = build_small("mlp_mixer", (64, 96, 3))
    found = km.explain.token_matrices(model)

    assert list(found.matrices) == [
        f"block_{block}/token_mixing/transform/{name}"
        for block in range(2)
        for name in ("expand", "project")
    ]
    first = "block_0/token_mixing/transform/expand"
    assert found.grids[first] == (None, (4, 6))

    patterns = found.patterns(first, most=3)

    norms = np.linalg.norm(found.matrices[first], axis=1)
    assert patterns.patterns.shape == (3, 4, 6)
    assert set(patterns.outputs) == set(np.argsort(-norms)[:3])
    np.testing.assert_array_equal(
        patterns.patterns[0].ravel(), found.matrices[first][patterns.outputs[0]]
    )
    assert patterns.png()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match=r"inputs are maps.*expand.*project"):
        found.patterns("block_0/token_mixing/transform/project")


@pytest.mark.one_backend
def test_models_in_models_are_read_and_others_refused():
    inner = metaformer(("pooling", "random"), include_top=False)
    image = keras.Input((32, 32, 3))
    outer = keras.Model(image, inner(image))
    found = km.explain.token_matrices(outer)
    (path,) = found.matrices
    assert path == f"{inner.name}/stage_1_block_0/token_mixing/transform"
    np.testing.assert_allclose(found.matrices[path].sum(1), 1, rtol=1e-5)
    assert found.grids[path] == ((4, 4), (4, 4))
    assert not km.explain.has_token_matrices(metaformer())
    with pytest.raises(ValueError, match=r"MLP-Mixer.*Received: model='metaformer'"):
        km.explain.token_matrices(metaformer())
