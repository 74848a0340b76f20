"""Python in processes of its own."""

import os
import subprocess
import sys
from typing import Any


def python_command(
    *arguments: str | os.PathLike[str], interpreter: str | os.PathLike[str] = ""
) -> list[str]:
    """The command line that starts Python on arguments such as `"-m", "module"`.

    Without `-P`, Python looks into the current folder first for every module, and a
    `tensorflow.py` beside the user's photographs would be run. `-X utf8` makes what
    the process reads and writes UTF-8, whatever the locale.

    Args:
        *arguments: what follows the options of the interpreter.
        interpreter: another one than that of this process.
    """
    command = (interpreter or sys.executable, "-P", "-X", "utf8", *arguments)
    return [os.fspath(part) for part in command]


def run_python(
    *arguments: str | os.PathLike[str],
    interpreter: str | os.PathLike[str] = "",
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `python_command(...)` to its end and keep what it writes, as text.

    Args:
        *arguments: what follows the options of the interpreter.
        interpreter: another one than that of this process.
        **options: of `subprocess.run`, such as `env` or `timeout`.
    """
    return subprocess.run(
        python_command(*arguments, interpreter=interpreter),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        **options,
    )
