"""The cost of scale, beside numbers worked out by hand."""

import csv

import pytest

from benchmarks import cost_of_scale
from keras_metaformer_lite.listing import all_models, find_model

pytestmark = pytest.mark.backend_independent


def test_a_step_of_four_devices(tmp_path, capsys):
    cluster = cost_of_scale.Cluster(4, 1e9, 100e12, 0.5, 2e9)
    model = find_model("CAFormerS18")
    assert (model.parameters, model.macs) == (26341656, 4106941440)
    found = cost_of_scale.cost(model, 64, cluster)
    assert found.gradient_bytes == 105366624
    assert found.all_reduce_seconds == pytest.approx(0.158049936)
    assert found.compute_seconds == pytest.approx(0.03154131)
    # The network is what such a step waits for.
    assert found.efficiency_hidden == pytest.approx(0.199565, rel=1e-4)
    assert found.efficiency_apart == pytest.approx(0.166364, rel=1e-4)
    assert found.images_per_second == pytest.approx(1619.74, rel=1e-4)
    assert found.checkpoint_seconds == pytest.approx(0.210733248)
    alone = cost_of_scale.cost(model, 64, cost_of_scale.Cluster(1, 1e9, 1e14, 0.5, 2e9))
    assert alone.all_reduce_seconds == 0 and alone.efficiency_apart == 1

    assert cost_of_scale.main(["--devices", "2"]) == 0
    assert "CAFormerB36" in capsys.readouterr().out
    assert cost_of_scale.main(["--csv", str(tmp_path / "costs.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "costs.csv").open(encoding="utf-8")))
    assert [row["model"] for row in rows] == [each.name for each in all_models()]
