"""Files of weights: whole, with the permissions of any other file."""

import os
import stat
import sys
import threading

import keras
import numpy as np
import pytest

import keras_metaformer as km
from keras_metaformer.weights.loading import load_weights_file
from keras_metaformer.weights.saving import SUFFIXES, save_weights_file
from tests.layer_checks import randomize, to_numpy
from tests.small_models import metaformer

pytestmark = pytest.mark.backend_independent


@pytest.fixture(scope="module")
def model() -> keras.Model:
    model = metaformer()
    randomize(model)
    return model


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_the_processs_own(model, tmp_path, suffix, mask):
    path = tmp_path / f"model{suffix}"
    before = os.umask(mask)
    try:
        save_weights_file(model, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_link_under_a_temporary_name_is_not_followed(
    model, tmp_path, suffix, monkeypatch
):
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    monkeypatch.setattr(os, "getpid", lambda: "guessed")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.symlink(victim, tmp_path / f".model.guessed.tmp{suffix}")
    with pytest.raises(FileExistsError):
        save_weights_file(model, tmp_path / f"model{suffix}")
    assert victim.read_bytes() == b"precious"


def test_threads_that_save_to_one_path(tmp_path):
    models = [metaformer() for _ in range(3)]
    for seed, each in enumerate(models):
        randomize(each, seed=seed)
    path = tmp_path / "model.npz"
    errors: list[BaseException] = []

    def save(each: keras.Model) -> None:
        try:
            for _ in range(5):
                save_weights_file(each, path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=save, args=(each,)) for each in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert os.listdir(tmp_path) == ["model.npz"]
    loaded = metaformer()
    load_weights_file(loaded, path)
    found = km.to_state_dict(loaded)
    assert any(
        all(
            np.array_equal(found[key], array)
            for key, array in km.to_state_dict(each).items()
        )
        for each in models
    )
    assert all(np.isfinite(to_numpy(weight)).all() for weight in loaded.weights)
