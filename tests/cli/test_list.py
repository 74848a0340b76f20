"""`keras-metaformer list`."""

import json

import pytest
from typer.testing import CliRunner

from keras_metaformer_lite.cli import app

pytestmark = pytest.mark.backend_independent
runner = CliRunner()


def test_lists_every_model_with_its_figures() -> None:
    result = runner.invoke(app, ["list"])
    assert result.exit_code == 0
    from keras_metaformer.models import families

    assert all(name in result.stdout for name in families.names())
    row = next(line for line in result.stdout.splitlines() if "CAFormerS18" in line)
    assert row.split() == [
        "CAFormerS18", "caformer", "26.3", "M", "4.1", "G", "224", "imagenet", "83.6"
    ]  # fmt: skip


def test_json_pattern_family_and_weights() -> None:
    result = runner.invoke(app, ["list", "*s18", "--weights", "imagenet_384", "--json"])
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == ["CAFormerS18", "ConvFormerS18"]
    assert rows[0]["weights_resolution"] == 384
    assert rows[0]["top1"] == 85.0
    assert "imagenet21k" in rows[0]["all_weights"]
    result = runner.invoke(app, ["list", "--family", "gmlp", "--json"])
    assert {row["family"] for row in json.loads(result.stdout)} == {"gmlp"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "resnet*"], "No model matches"),
        (["list", "--family", "resnet"], "--family must be one of"),
        (["list", "--weights", "imagenet_9"], "imagenet_9"),
    ],
)
def test_what_there_is_not_is_a_usage_error(arguments: list[str], words: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_help_names_commands_and_exit_codes() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("list", "classify", "weights", "Exit codes"):
        assert word in result.output
