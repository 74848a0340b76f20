import numpy as np

from examples import custom_loop


def test_the_loop_counts_updates_and_learns():
    result = custom_loop.train(epochs=4, samples=128)
    losses = result["losses"]
    assert len(losses) == 4 * 4  # batches
    assert int(result["optimizer"].iterations) == 4 * 2  # updates
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    assert 0.0 <= result["averaged"] <= 1.0
    changed = [
        not np.array_equal(average, weight)
        for average, weight in zip(
            result["average"].get(), result["model"].get_weights(), strict=True
        )
    ]
    assert all(changed)
