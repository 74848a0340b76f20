import pytest

from examples import distil


@pytest.mark.one_backend
def test_a_student_is_trained_alone_and_with_a_teacher():
    accuracies = distil.run(epochs=1, samples=64)
    assert list(accuracies) == ["teacher", "student alone", "student, taught"]
    assert all(0.0 <= accuracy <= 1.0 for accuracy in accuracies.values())
