"""The switch of the fast paths."""

import pytest

from keras_metaformer.layers import fast_paths

pytestmark = pytest.mark.backend_independent


def test_on_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv(fast_paths.ENVIRONMENT_VARIABLE, raising=False)
    assert fast_paths._from_environment()
    monkeypatch.setenv(fast_paths.ENVIRONMENT_VARIABLE, "1")
    assert fast_paths._from_environment()
    monkeypatch.setenv(fast_paths.ENVIRONMENT_VARIABLE, "0")
    assert not fast_paths._from_environment()


def test_other_values_of_the_variable_are_refused(monkeypatch):
    monkeypatch.setenv(fast_paths.ENVIRONMENT_VARIABLE, "off")
    with pytest.raises(ValueError, match=r"Received: .*'off'"):
        fast_paths._from_environment()


def test_switched_puts_back_what_was():
    with fast_paths.switched(True):
        with fast_paths.switched(False):
            assert not fast_paths.enabled()
            with fast_paths.switched(True):
                assert fast_paths.enabled()
            assert not fast_paths.enabled()
        assert fast_paths.enabled()


def test_switched_puts_back_after_an_error():
    with fast_paths.switched(True):
        with pytest.raises(KeyError), fast_paths.switched(False):
            raise KeyError
        assert fast_paths.enabled()


def test_set_enabled_stays():
    before = fast_paths.enabled()
    try:
        fast_paths.set_enabled(not before)
        assert fast_paths.enabled() is not before
    finally:
        fast_paths.set_enabled(before)
