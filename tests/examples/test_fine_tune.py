import sys

import pytest

from examples import fine_tune_folder, fine_tune_tfds
from keras_metaformer_lite.processes import run_python
from tests.data import tiny_dataset
from tests.training.photographs import SETTINGS, small_model, write_digits

LITTLE = {**SETTINGS, "epochs": 1, "batch_size": 4, "accumulate": 1}


@pytest.mark.one_backend
def test_on_a_folder(tmp_path):
    write_digits(tmp_path / "photographs", classes=2, each=4)
    model = small_model(tmp_path / "small.keras")
    output = tmp_path / "run"

    for _ in range(2):  # the second finds a finished run
        wrong = fine_tune_folder.fine_tune(
            tmp_path / "photographs", output, str(model), **LITTLE
        )
        assert set(wrong.values()) <= {"digit_0", "digit_1"}
    assert (output / "best.keras").is_file()


@pytest.mark.one_backend
@pytest.mark.skipif(sys.platform == "win32", reason="array_record has no wheels")
def test_on_a_data_set_of_tensorflow_datasets(tmp_path):
    prepared = run_python(tiny_dataset.__file__, "array_record", tmp_path / "tfds")
    assert prepared.returncode == 0, prepared.stderr[-3000:]
    model = small_model(tmp_path / "small.keras")

    accuracy = fine_tune_tfds.fine_tune(
        "tiny",
        tmp_path / "run",
        str(model),
        training="train",
        validation="test",
        data_dir=tmp_path / "tfds",
        **LITTLE,
    )

    assert 0.0 <= accuracy <= 1.0
