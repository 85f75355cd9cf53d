"""A run's directory: one run at a time, one configuration, nothing lost or mixed."""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.config import TrainConfig
from dal_jax.errors import InputError
from dal_jax.noise import NoiseRecord

_FILES = ("config.json", "noise.npz", "metrics.jsonl", "summary.json")
_DIRECTORIES = ("checkpoints", "damaged_checkpoints", "profile")


class StorageError(RuntimeError):
    """A run that could not be written: one line with why and what to do."""


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns whatever writing below ``path`` raises into a StorageError."""
    try:
        yield
    except Exception as error:
        # Orbax's own errors are pages long and name the system's only by number.
        code = re.search(r"os_error_code='(\d+)'", str(error))
        reason = os.strerror(int(code[1])) if code else str(error).split("\n")[0][:200]
        raise StorageError(
            f"cannot write to {path} ({reason}); what was saved before is whole: "
            "mend that, and the same command goes on from there"
        ) from error


class Workdir:
    """The files of one run.

    ``config.json``, ``noise.npz``, ``metrics.jsonl`` (one JSON object an evaluation),
    ``summary.json`` once the run has finished, and ``checkpoints``.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path).absolute()
        self.checkpoints = self.path / "checkpoints"
        self.noise = self.path / "noise.npz"

    def check(self, config: TrainConfig, *, overwrite: bool) -> None:
        """Raises InputError where a run with this configuration must not go here."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"workdir {self.path} is a file: expected a directory; "
                "give another --workdir"
            )
        if overwrite or not self.path.exists():
            return
        stored_file = self.path / "config.json"
        if not stored_file.exists():
            # A run killed at its very beginning leaves these two.
            own = (".lock", "config.json.writing")
            strangers = [p.name for p in self.path.iterdir() if p.name not in own]
            if strangers:
                raise InputError(
                    f"workdir {self.path} holds no run but other files "
                    f"({', '.join(sorted(strangers)[:3])}): expected an empty or new "
                    "directory; give another --workdir, or --overwrite to use this one"
                )
            return
        differing = _differences(_read_json(stored_file), _plain(config))
        if differing:
            raise InputError(
                f"workdir {self.path} holds a run with another configuration "
                f"({', '.join(differing)}): expected the same one to go on; "
                "give another --workdir, or --overwrite to start anew"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the directory for this process; the kernel lets go if it dies."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a")
        except OSError as error:
            raise InputError(
                f"cannot write to workdir {self.path} ({error.strerror}): expected a "
                "directory of one's own; give another --workdir"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"workdir {self.path} is in use by another run: expected to be "
                    "alone; wait for it to end or give another --workdir"
                ) from None
            yield

    def clear(self) -> None:
        """Removes what a run writes, and nothing else."""
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in _DIRECTORIES:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def begin(
        self, config: TrainConfig, record: NoiseRecord, *, overwrite: bool
    ) -> None:
        """Writes ``config.json`` and ``noise.npz`` of a run that begins or goes on.

        Raises:
          InputError: the directory belongs, or has come to belong, to another run, or
            to the same one with other labels.
        """
        self.check(config, overwrite=overwrite)
        if overwrite:
            self.clear()
        elif self.noise.exists():
            self._check_labels(record)
        _write_json(self.path / "config.json", _plain(config))
        with storing(self.path):
            _remove_leftovers(self.noise)
            record.save(self.noise)

    def _check_labels(self, record: NoiseRecord) -> None:
        before = NoiseRecord.load(self.noise)
        for field in ("noisy_labels", "clean_labels", "index"):
            if not np.array_equal(getattr(before, field), getattr(record, field)):
                raise InputError(
                    f"{self.noise} holds other {field} than this configuration gives "
                    "now: expected the data and its labels as they were when the run "
                    "began; bring them back, or --overwrite to start anew"
                )

    def read_summary(self) -> dict[str, Any] | None:
        """Returns ``summary.json``, or None for a run that has not finished."""
        path = self.path / "summary.json"
        return _read_json(path) if path.exists() else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``."""
        _write_json(self.path / "summary.json", summary)

    def read_metrics(self, last_step: int) -> list[dict[str, Any]]:
        """Returns the evaluations up to a step and removes later or torn ones.

        A killed run may have written lines that its newest checkpoint does not know;
        the run that goes on from there writes them again.
        """
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = []
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break  # torn by a kill or a full disk
            if entry["step"] <= last_step:
                kept.append(entry)
        _write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        return kept

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Adds one evaluation, on disk when this returns."""
        with storing(self.path), (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def config_digest(config: TrainConfig) -> int:
    """Returns a number that tells configurations apart."""
    return zlib.crc32(json.dumps(_plain(config), sort_keys=True).encode())


def _remove_leftovers(path: Path) -> None:
    """Removes what processes that were killed while they saved ``path`` left."""
    for partial in path.parent.glob(f".{path.name}.*"):
        writer = partial.name.rpartition(".")[2]
        if writer.isdigit() and not _is_alive(int(writer)):
            partial.unlink(missing_ok=True)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is another user's
    return True


def _plain(config: TrainConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(config), default=vars))


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted(old.keys() | new.keys())
            for difference in _differences(
                old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key
            )
        ]
    return [] if old == new else [f"{prefix} was {old!r}, now {new!r}"]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise InputError(
            f"{path} is damaged: expected JSON; restore it, or start anew with "
            "--overwrite"
        ) from None


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    # Written aside and moved: a reader, or a kill, meets the old file or the new one.
    aside = path.with_name(path.name + ".writing")
    with storing(path.parent):
        with aside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
