"""The learning rates of published trainings, and the schedule that applies them."""

import keras
import numpy as np
import pytest

import keras_metaformer as km
from tests.training import traces

SCHEDULES = [key for key in traces.FACTS if key.startswith("schedule_")]


@pytest.mark.backend_independent
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_of_every_epoch_is_the_recorded_one(name):
    (arguments,) = (
        value for key, value in traces.FACTS[name].items() if key != "epochs in all"
    )
    recorded = traces.ARRAYS[name.replace("_", "/", 1)]
    rates = km.training.epoch_schedule(*arguments)
    assert rates.dtype == "float64"
    assert len(rates) == len(recorded) == traces.FACTS[name]["epochs in all"]
    np.testing.assert_allclose(rates, recorded, rtol=1e-13)


@pytest.mark.backend_independent
def test_a_linear_schedule_rises_to_the_peak_and_falls_to_the_floor():
    rates = km.training.linear_schedule(
        1.0, 6, warmup_epochs=2, warmup_rate=0.5, floor=0.2, cooldown_epochs=2
    )
    np.testing.assert_allclose(rates, [0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    np.testing.assert_allclose(km.training.linear_schedule(1.0, 2), [1.0, 0.5])
    np.testing.assert_allclose(km.training.constant_schedule(0.3, 2), [0.3, 0.3])


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1.*epochs=0"),
        ({"epochs": 2.5}, "`epochs` must be an integer.*epochs=2.5"),
        ({"warmup_epochs": 11}, "must not exceed `epochs`.*warmup_epochs=11"),
        ({"cooldown_epochs": -1}, "`cooldown_epochs` must be at least 0"),
        ({"peak": float("nan")}, "`peak` must be a number.*peak=nan"),
        ({"floor": -1.0}, "`floor` must be a number of at least 0.*floor=-1.0"),
    ],
)
def test_arguments_out_of_range_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        km.training.epoch_schedule(**{"peak": 1.0, "epochs": 10, **arguments})


def test_the_rate_changes_once_an_epoch_of_updates():
    rates = [1e-3, 2e-3, 3e-3]
    schedule = km.training.EpochSchedule(rates, updates_per_epoch=2)
    given = [float(schedule(update)) for update in range(8)]
    epochs = [0, 0, 1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(given, np.float32([rates[e] for e in epochs]))


def test_the_rate_can_move_at_every_update():
    schedule = km.training.EpochSchedule([1.0, 3.0], 4, interpolate=True)
    given = [float(schedule(update)) for update in range(6)]
    np.testing.assert_allclose(given, [1.0, 1.5, 2.0, 2.5, 3.0, 3.0], rtol=1e-6)


def test_a_schedule_survives_serialisation():
    schedule = km.training.EpochSchedule([0.25, 0.5], 3, interpolate=True)
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is km.training.EpochSchedule
    assert again.get_config() == schedule.get_config()


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("rates", "updates"), [([], 1), ([[1.0]], 1), ([float("inf")], 1), ([1.0], 0)]
)
def test_a_table_without_rates_or_updates_is_an_error(rates, updates):
    with pytest.raises(ValueError, match=r"Received: (rates|updates_per_epoch)="):
        km.training.EpochSchedule(rates, updates)
