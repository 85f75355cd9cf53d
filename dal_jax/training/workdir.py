"""A run's directory: one run at a time, one configuration, nothing lost or mixed."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dal_jax.errors import InputError
from dal_jax.files import sync_directory, write_atomically
from dal_jax.noise import NoiseRecord
from dal_jax.training import mark as marks
from dal_jax.training.differences import differences
from dal_jax.training.storing import StorageError, storing

# What a writer that was killed leaves; the last two are version 0.1.0's.
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.(\w+\.partial|\d+)|(?P<old>.+)\.writing")


class Workdir:
    """The files of one run.

    ``config.json``, ``noise.npz``, ``metrics.jsonl`` (one JSON object an evaluation),
    ``summary.json`` once the run has finished, ``checkpoints``, and ``.dal_jax``, which
    marks them as this program's.

    What decides a run is its *identity*, a nested dictionary that JSON can hold: the
    configuration, or a fingerprint of the objects. It is what ``config.json`` holds.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path: Path = Path(path).absolute()
        self.checkpoints: Path = self.path / "checkpoints"
        self.noise: Path = self.path / "noise.npz"
        self._config = self.path / "config.json"
        self._metrics = self.path / "metrics.jsonl"

    @property
    def mark(self) -> marks.Mark:
        """What in the directory is this program's."""
        return marks.Mark(self.path)

    @property
    def digest(self) -> int:
        """A number that tells the identity of this run from others."""
        text = json.dumps(self._read(self._config), sort_keys=True)
        return zlib.crc32(text.encode())

    def check(
        self,
        identity: Mapping[str, Any],
        defaults: Mapping[str, Any],
        *,
        overwrite: bool,
    ) -> None:
        """Raises InputError where a run of this identity must not go here.

        Args:
          identity: of the run.
          defaults: likewise nested; a field that an earlier version of the program did
            not write counts as having its value here.
          overwrite: whether an earlier run may be removed.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"workdir {self.path} is a file: expected a directory; "
                "give another --workdir"
            )
        if not self.path.exists():
            return
        if overwrite:
            self._refuse(self.mark.strangers())
        elif self._config.exists():
            self._check_same(identity, defaults)
        else:
            self._check_empty()

    def _check_same(
        self, identity: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> None:
        if "config.json" not in self.mark.names:
            # A copy without hidden files, if it is of this very run; else a stranger's.
            if marks.read_json(self._config) != json.loads(json.dumps(identity)):
                self._refuse(self.mark.strangers())
            return
        differing = differences(self._read(self._config), identity, defaults)
        if differing:
            raise InputError(
                f"workdir {self.path} holds a run with another configuration "
                f"({', '.join(differing)}): expected the same one to go on; "
                "give another --workdir, or --overwrite to start anew"
            )

    def _check_empty(self) -> None:
        found = {path.name for path in self.path.iterdir()} - {".lock", marks.FILE}
        found -= {path.name for path in self._leftovers()}
        self._refuse(sorted(found - self.mark.names))
        if found:
            raise InputError(
                f"workdir {self.path} holds what is left of a run without its "
                f"config.json ({', '.join(sorted(found)[:3])}): expected all of it to "
                "go on; bring it back, or --overwrite to start anew"
            )

    def _refuse(self, strangers: list[str]) -> None:
        # Nothing here may suggest --overwrite: these files are somebody else's.
        if strangers:
            raise InputError(
                f"workdir {self.path} holds files that no run of this program wrote "
                f"({', '.join(strangers[:3])}): expected an empty or new directory, or "
                "one of its runs; give another --workdir"
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
                "directory that you may write to; give another --workdir"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"workdir {self.path} is in use by another run: expected only one "
                    "run at a time; wait for it to end or give another --workdir"
                ) from None
            yield

    def begin(
        self,
        identity: Mapping[str, Any],
        defaults: Mapping[str, Any],
        record: NoiseRecord | None,
        *,
        overwrite: bool,
    ) -> None:
        """Writes ``config.json`` and ``noise.npz`` of a run that begins or goes on.

        Args:
          identity: of the run.
          defaults: see :meth:`check`.
          record: the given labels, if the run keeps them.
          overwrite: remove what an earlier run left, and nothing else.

        Raises:
          InputError: the directory belongs, or has come to belong, to another run, or
            to the same one with other labels.
          StorageError: it could not be written.
        """
        self.check(identity, defaults, overwrite=overwrite)
        if record is not None and self.noise.exists() and not overwrite:
            self._check_labels(record)
        with storing(self.path):
            for partial in self._leftovers():
                partial.unlink(missing_ok=True)
            if overwrite:
                self._clear()
            # The configuration of a run that goes on stays as it is: its checkpoints
            # were saved with that one's digest.
            if self._config.exists():
                self.mark.claim(adopt=True)
            else:
                self.mark.begin()
                self.write_json("config.json", identity)
            if record is not None and not self.noise.exists():
                record.save(self.noise)

    def _clear(self) -> None:
        """Removes what is marked as a run's, so that a kill leaves it marked."""
        mark = self.mark
        mark.claim()
        for name in marks.NAMES:  # config.json first: what is left is no run
            path = self.path / name
            if name not in mark.names:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            sync_directory(self.path)

    def _leftovers(self) -> list[Path]:
        """Returns what writers of the run's files left when they were killed."""
        found = []
        for path in self.path.iterdir():
            match = _LEFTOVER.fullmatch(path.name)
            if match and (match["name"] or match["old"]) in (*marks.NAMES, marks.FILE):
                found.append(path)
        return found

    def _check_labels(self, record: NoiseRecord) -> None:
        before = NoiseRecord.load(self.noise)
        for field in ("noisy_labels", "clean_labels", "index"):
            if not np.array_equal(getattr(before, field), getattr(record, field)):
                raise InputError(
                    f"{self.noise} holds other {field} than this configuration gives "
                    "now: expected the data and its labels as they were when the run "
                    "began; bring them back, or --overwrite to start anew"
                )

    def read_json(self, name: str) -> dict[str, Any]:
        """Returns the JSON object in a file of the run."""
        return self._read(self.path / name)

    def read_summary(self) -> dict[str, Any] | None:
        """Returns ``summary.json``, or None for a run that has not finished.

        A torn one is none: the run that goes on writes it again, from the last
        checkpoint.
        """
        path = self.path / "summary.json"
        try:
            return self._read(path) if path.exists() else None
        except InputError:
            return None

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes ``summary.json``."""
        self.write_json("summary.json", summary)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file of the run, whole or not at all."""
        text = json.dumps(value, indent=2) + "\n"
        self.write(name, lambda file: file.write(text.encode()))

    def write_npz(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes arrays by name as a file of the run, whole or not at all."""
        self.write(
            name, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
        )

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Writes a file of the run by a function of the open file, whole or not."""
        self.refuse_strangers(name)
        with storing(self.path):
            write_atomically(self.path / name, write)

    def refuse_strangers(self, *names: str) -> None:
        """Raises InputError where one of these files is there and somebody else's."""
        self._refuse(sorted(set(names) & set(self.mark.strangers())))

    def read_metrics(self, last_step: int) -> list[dict[str, Any]]:
        """Returns the evaluations up to a step and removes later or torn ones.

        A killed run may have written lines that its newest checkpoint does not know;
        the run that goes on from there writes them again. Of a run that has finished
        all are returned, and nothing is removed.
        """
        before = self._metrics.read_bytes() if self._metrics.exists() else None
        finished = self.read_summary() is not None
        entries, kept = [], b""
        for line in (before or b"").splitlines():
            try:
                entry = json.loads(line)
                newer = entry["step"] > last_step and not finished
            except (ValueError, TypeError, KeyError):
                break  # torn by a kill or a full disk
            if not newer:
                entries.append(entry)
                kept += line + b"\n"
        if kept != before and not finished:
            self.write("metrics.jsonl", lambda file: file.write(kept))
        return entries

    def append_metrics(self, entry: Mapping[str, Any]) -> None:
        """Adds one evaluation, on disk when this returns."""
        with storing(self.path), self._metrics.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            content = None
        except OSError as error:
            raise StorageError(
                f"cannot read {path} ({error.strerror}); nothing was changed: fix "
                "that, and the same command goes on"
            ) from error
        if not isinstance(content, dict):
            raise InputError(
                f"{path} is damaged: expected a JSON object; restore it, or start anew "
                "with --overwrite"
            )
        return content
