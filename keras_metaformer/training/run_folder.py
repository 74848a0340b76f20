"""What a run leaves behind: its configuration, logs, models and pictures."""

import contextlib
import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_metaformer.training.checkpoint import read_about
from keras_metaformer_lite import __version__
from keras_metaformer_lite.weights.disk import replacement

_PACKAGES = "numpy pillow tensorflow jax jaxlib torch".split()


class ConfigurationError(ValueError):
    """A run folder holds a run of another configuration, or one that is going on."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def checkpoint(self) -> Path:
        """All of the run's state, from which it goes on."""
        return self.path / "checkpoint.safetensors"

    @property
    def config(self) -> Path:
        """All that decides the result, in full."""
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """One row an epoch."""
        return self.path / "log.csv"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Keeps other processes out of the folder, and removes what a killed one left.

        Raises:
            ConfigurationError: if a run is going on in the folder.
        """
        from filelock import FileLock, Timeout

        # The system gives it up with the process, however that ends.
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigurationError(
                "Another process is training in this folder. "
                f"Received: {str(self.path)!r}"
            ) from error
        try:
            for left in self.path.glob(".*.tmp*"):
                left.unlink(missing_ok=True)
            yield
        finally:
            # Before others can have it; on Windows an open file stays.
            with contextlib.suppress(PermissionError):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def model(self, which: str, averaged: bool = False) -> Path:
        """A saved model.

        Args:
            which: `"best"` or `"last"`.
            averaged: with the averaged weights.
        """
        return self.path / f"{which}{'_average' if averaged else ''}.keras"

    def best_model(self) -> Path:
        """The model that other commands take out of the folder.

        That of the better of the raw and the averaged weights, by the validation data.

        Raises:
            FileNotFoundError: if the run has not come so far.
        """
        about = read_about(self.checkpoint) if self.checkpoint.is_file() else {}
        best = about.get("best", {})
        candidates = [
            (best.get(name, {}).get("accuracy", -1.0), averaged)
            for name, averaged in (("raw", False), ("average", True))
        ]
        for _, averaged in sorted(candidates, reverse=True):
            for which in ("best", "last"):
                if self.model(which, averaged).is_file():
                    return self.model(which, averaged)
        raise FileNotFoundError(
            "Expected the folder of a training run with a model in it: the first one "
            "is written after the first epoch. "
            f"Received: {str(self.path)!r}"
        )

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file, whole or not at all."""
        with replacement(self.path / name) as temporary:
            temporary.write_text(
                json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8"
            )

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `log.csv` anew, whole or not at all."""
        write_table(self.log, rows)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, whole or not at all; columns in the order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (
        replacement(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def environment() -> dict[str, Any]:
    """With what a run is made: versions, device, command, revision."""
    versions = {"keras-metaformer": __version__, "keras": keras.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "backend": keras.backend.backend(),
        "command": sys.argv,
        "git": git_revision(Path.cwd()),
    }


def git_revision(folder: Path) -> str | None:
    """The revision that is checked out, with `+changes` where files differ from it."""
    try:
        revision, status = (
            subprocess.run(
                ["git", "-C", os.fspath(folder), *command],
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
            ).stdout.strip()
            for command in (
                ("rev-parse", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no"),
            )
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no repository
        return None
    return revision + ("+changes" if status else "")


def fingerprint(config: Mapping[str, Any]) -> str:
    """The hash of a configuration."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_same(run: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise a `ConfigurationError` that shows where two configurations differ."""
    run, now = (json.loads(json.dumps(each)) for each in (run, now))
    if fingerprint(run) == fingerprint(now):
        return
    before, after = _flat(run), _flat(now)
    lines = [
        f"  {name}: {_show(before.get(name))} in the run, {_show(after.get(name))} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, ...) != after.get(name, ...)
    ]
    raise ConfigurationError(
        "The folder holds a run of another configuration, which cannot go on with "
        "this one:\n"
        + "\n".join(lines)
        + f"\nGive another folder, or the run's own settings. Received: {str(folder)!r}"
    )


def _show(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.120}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
