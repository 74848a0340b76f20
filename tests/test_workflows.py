"""The workflows for GitHub, as far as they can be looked at here."""

import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.backend_independent

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_by_commit(file):
    used = [line for line in file.read_text("utf-8").splitlines() if "uses:" in line]
    assert used
    for line in used:
        # The version is said beside it; Dependabot moves both.
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$", line)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_can_do_no_more_than_they_say(file):
    workflow = yaml.safe_load(file.read_text("utf-8"))
    for name, job in workflow["jobs"].items():
        assert "timeout-minutes" in job, name
        granted = job.get("permissions", workflow.get("permissions"))
        assert isinstance(granted, dict), name
