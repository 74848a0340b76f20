"""Runs a notebook with this interpreter and checkout, and nothing outside a folder.

`python -m tests.notebook_kernel VERB ...` stands there for the command.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from nbclient import NotebookClient

from tests.small_models import narrowed

ROOT = Path(__file__).resolve().parent.parent
#: What IPython does first in a kernel: models are there as narrow as they are here.
_START = """\
import pytest
from tests.small_models import narrowed

for name in {names}:
    narrowed(pytest.MonkeyPatch(), name)
"""
_COMMAND = """\
#!/bin/sh
exec "{python}" -m tests.notebook_kernel "$@"
"""


def execute(
    notebook: Any, folder: Path, patch: pytest.MonkeyPatch, narrow: Sequence[str] = ()
) -> None:
    """Run all cells. The first that fails is an error, a command's failure too.

    Args:
        notebook: changed in place; what it would install is left out.
        folder: the notebook's, with what its cells speak of.
        patch: sets the kernel's environment.
        narrow: names of models that are small there.
    """
    home = folder / "home"
    startup = home / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "narrow.py").write_text(_START.format(names=narrow), "utf-8")
    command = home / "bin/keras-metaformer"
    command.parent.mkdir()
    command.write_text(_COMMAND.format(python=sys.executable), encoding="utf-8")
    command.chmod(0o755)
    patch.setenv("HOME", str(home))
    patch.setenv("IPYTHONDIR", str(home / "ipython"))
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR", "PATH"):
        patch.setenv(f"JUPYTER_{name}", str(home / "jupyter"))
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("PATH", str(command.parent), prepend=":")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = "\n".join(map(_checked, cell.source.splitlines()))
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=where).execute()


def _checked(line: str) -> str:
    if line.startswith("%pip"):
        return ""
    # IPython itself goes on after a command that failed.
    return f"{line}\nassert _exit_code == 0" if line.startswith("!") else line


def main() -> None:
    """The command, with narrow models; what would take minutes is parsed only."""
    from tests.test_documentation import LONG, USED, parse, run

    for name in USED:
        narrowed(pytest.MonkeyPatch(), name)
    arguments = sys.argv[1:]
    parse(arguments) if arguments[0] in LONG else run(arguments)


if __name__ == "__main__":
    main()
