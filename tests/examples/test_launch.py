"""The files to launch a run with: their syntax, and the options that they give."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from keras_metaformer_lite.cli import app

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "launch"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
pytestmark = pytest.mark.backend_independent


def _options(command):
    group: Any = typer.main.get_command(app)
    return {name for each in group.commands[command].params for name in each.opts}


def _check_command(words):
    start = words.index("keras-metaformer")
    command = words[start + 1]
    given = {word for word in words[start:] if word.startswith("--")}
    assert given and given <= _options(command)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_of_the_shell_and_of_this_command(path):
    assert len(SCRIPTS) == 4
    shell = shutil.which("bash")
    if shell is not None:  # not on Windows
        subprocess.run([shell, "-n", path], check=True)
    text = re.sub(r"\\\n", " ", path.read_text("utf-8"))
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    (line,) = [line for line in lines if "keras-metaformer " in line]
    _check_command(shlex.split(line.replace("'", " ").replace('"', " ")))


def test_the_job_set_starts_the_command_in_each_pod():
    job = yaml.safe_load((FOLDER / "jobset.yaml").read_text("utf-8"))
    (replicated,) = job["spec"]["replicatedJobs"]
    pods = replicated["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    _check_command(container["command"] + container["args"])
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["KERAS_DISTRIBUTION_NUM_PROCESSES"] == str(pods["completions"])
    assert "KERAS_DISTRIBUTION_PROCESS_ID" in variables
    host = variables["KERAS_DISTRIBUTION_JOB_ADDRESSES"].split(":")[0]
    name = job["metadata"]["name"]
    assert host == f"{name}-{replicated['name']}-0-0.{name}"
