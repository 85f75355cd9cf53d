"""A comparison's directory: a workdir a run, and beside it why a run failed."""

import contextlib
import csv
import fcntl
import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dal_jax.comparing.plan import Run
from dal_jax.config import TrainConfig, plain
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.training.differences import differences
from dal_jax.training.mark import read_json, read_lines

FIGURES = (
    "realised_noise_rate",
    "test_accuracy_last",
    "test_accuracy_mean_last_10",
    "test_accuracy_best",
    "memorized",
    "corrected",
    "seconds",
)
# What the runs of a comparison differ in, by the section of the configuration.
_CROSSED = {"loss": ("name",), "noise": ("kind", "rate", "path"), "": ("seed",)}


class Study:
    """A comparison's directory.

    ``comparison.json`` holds what all runs share, ``runs/NAME`` is the workdir of a
    run, ``runs/NAME.failed.json`` says why one failed, ``runs/NAME.lock`` is held by
    the process that trains it.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path: Path = Path(path).absolute()
        self.mark: Path = self.path / "comparison.json"

    def begin(self, base: TrainConfig) -> None:
        """Makes the directory this comparison's; raises as :meth:`check` does."""
        self.check(base)
        if not self.mark.exists():
            text = json.dumps({"config": _common(base)}, indent=2) + "\n"
            self.write(self.mark.name, text)

    def check(self, base: TrainConfig) -> None:
        """Raises InputError where the directory is not this comparison's, or free."""
        common = {"config": _common(base)}
        if not self.mark.exists():
            self._check_empty()
            return
        stored = read_json(self.mark)
        if not stored:
            raise InputError(
                f"{self.mark} is damaged: expected a JSON object; restore it, or give "
                "another --workdir"
            )
        defaults = {"config": _common(TrainConfig())}
        found = differences(stored, common, defaults)
        if found:
            changed = ", ".join(text.removeprefix("config.") for text in found)
            raise InputError(
                f"{self.path} holds a comparison of other runs ({changed}): expected "
                "the same to go on; give another --workdir"
            )

    def workdir(self, name: str) -> Path:
        """Returns the directory of a run."""
        return self.path / "runs" / name

    def finished(self, name: str) -> bool:
        """Returns whether a run is done: it has finished, or will fail again."""
        if read_json(self.workdir(name) / "summary.json"):
            return True
        return not self.failure(name).get("again", True)

    def failure(self, name: str) -> dict[str, Any]:
        """Returns why a run failed the last time, ``{}`` if it did not."""
        return read_json(self._beside(name, ".failed.json"))

    def note_failure(self, name: str, reason: str, *, again: bool) -> None:
        """Notes why a run failed, and whether to try it again the next time."""
        text = json.dumps({"error": reason, "again": again}, indent=2) + "\n"
        path = self._beside(name, ".failed.json")
        self.write(str(path.relative_to(self.path)), text)

    def forget_failure(self, name: str) -> None:
        """Removes the note of an earlier failure."""
        self._beside(name, ".failed.json").unlink(missing_ok=True)

    @contextlib.contextmanager
    def claimed(self, name: str, patience: float) -> Iterator[bool]:
        """Claims a run for this process; yields False where another one trains it.

        The kernel gives up the claim of a process that dies.

        Args:
          name: the run's.
          patience: seconds to wait for the other one.
        """
        path = self._beside(name, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        ends = time.monotonic() + patience
        with path.open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > ends:
                        yield False
                        return
                    time.sleep(0.5)
                else:
                    yield True
                    return

    def row(self, run: Run) -> dict[str, Any] | None:
        """Returns a run's line of ``results.csv``, None for one that is to be trained.

        Further keys are ``method``, ``validation_accuracy_last`` and ``device``.
        """
        summary = read_json(self.workdir(run.name) / "summary.json")
        error = "" if summary else self.failure(run.name).get("error", "")
        if not summary and not error:
            return None
        figures = {name: summary.get(name) for name in FIGURES}
        return {
            "loss": run.loss,
            "noise": run.noise.label,
            "seed": run.seed,
            **run.setting,
            **figures,
            "seconds": summary.get("elapsed_seconds"),
            "error": error,
            "method": run.method,
            "validation_accuracy_last": summary.get("validation_accuracy_last"),
            "device": summary.get("device"),
        }

    def rows(self, runs: Iterable[Run]) -> list[dict[str, Any]]:
        """Returns the lines of all runs that have finished or failed."""
        return [row for run in runs if (row := self.row(run)) is not None]

    def curve(self, run: Run) -> list[dict[str, Any]]:
        """Returns the evaluations of a run that has finished."""
        return read_lines(self.workdir(run.name) / "metrics.jsonl")

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a file of the comparison, whole or not at all."""
        path = self.path / name
        if isinstance(content, str):
            content = content.encode()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(content))
        except OSError as error:
            raise InputError(
                f"cannot write {path} ({error.strerror}): expected a directory that "
                "you may write to, with room in it; the same command then goes on"
            ) from error

    def _check_empty(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InputError(
                f"{self.path} is a file: expected a directory; give another --workdir"
            )
        found = (
            sorted(p.name for p in self.path.glob("*")) if self.path.exists() else []
        )
        if found:
            raise InputError(
                f"{self.path} holds files that no comparison wrote "
                f"({', '.join(found[:3])}): expected an empty or new directory, or a "
                "comparison's; give another --workdir"
            )

    def _beside(self, name: str, ending: str) -> Path:
        workdir = self.workdir(name)
        return workdir.with_name(workdir.name + ending)


def table(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> str:
    """Returns the lines of runs as CSV, which loads into pandas.

    Example:
      >>> row = {"loss": "ce", "noise": "none", "seed": 0, "error": "not finite"}
      >>> print(table([row], []).splitlines()[1])
      ce,none,0,,,,,,,,not finite
    """
    columns = ["loss", "noise", "seed", *swept, *FIGURES, "error"]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, columns, extrasaction="ignore", lineterminator="\n", restval=""
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _common(config: TrainConfig) -> dict[str, Any]:
    """Returns the fields that all runs of a comparison share."""
    values = plain(config)
    for section, names in _CROSSED.items():
        for name in names:
            (values[section] if section else values).pop(name)
    return values
