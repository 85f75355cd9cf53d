"""Where a run in progress is kept: a directory, or nowhere."""

from collections.abc import Callable
from typing import Any, Protocol

from dal_jax.training.checkpoint import Checkpoints
from dal_jax.training.events import Events
from dal_jax.training.processes import is_main_process
from dal_jax.training.workdir import Workdir

PyTree = Any
Entry = dict[str, Any]


class Storage(Protocol):
    """What a run in progress needs from the place where it is kept."""

    def restore(
        self, abstract: PyTree, say: Callable[[str], None], later: PyTree
    ) -> tuple[int, PyTree] | None:
        """Returns the newest checkpoint's step and arrays, or ``None``."""

    def entries(self, last_step: int) -> list[Entry]:
        """Returns the evaluations up to a step; later ones are forgotten."""
        ...

    def append(self, entry: Entry) -> None:
        """Keeps one evaluation."""

    def save(self, step: int, arrays: PyTree, accuracy: float | None) -> None:
        """Begins to keep a checkpoint and its noisy validation accuracy."""

    def wait(self) -> None:
        """Waits for what is being kept."""

    def close(self) -> None:
        """Waits, and lets go."""


class Nowhere:
    """A run that leaves no files and cannot go on."""

    def restore(
        self, abstract: PyTree, say: Callable[[str], None], later: PyTree
    ) -> tuple[int, PyTree] | None:
        """Finds nothing."""

    def entries(self, last_step: int) -> list[Entry]:
        """Returns none."""
        return []

    def append(self, entry: Entry) -> None:
        """Does nothing."""

    def save(self, step: int, arrays: PyTree, accuracy: float | None) -> None:
        """Does nothing."""

    def wait(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class Directory:
    """A run's directory; only the main process writes its lines."""

    def __init__(
        self, files: Workdir, checkpoints: Checkpoints, writes_events: bool = False
    ):
        self._files, self._checkpoints = files, checkpoints
        self._events = Events(files) if writes_events and is_main_process() else None

    def restore(
        self, abstract: PyTree, say: Callable[[str], None], later: PyTree
    ) -> tuple[int, PyTree] | None:
        """Returns the newest whole checkpoint's step and arrays, or ``None``."""
        return self._checkpoints.restore(abstract, say, later)

    def entries(self, last_step: int) -> list[Entry]:
        """Returns the evaluations up to a step and removes later ones."""
        entries = self._files.read_metrics(last_step) if is_main_process() else []
        if self._events is not None:
            self._events.begin(entries)
        return entries

    def append(self, entry: Entry) -> None:
        """Writes a line to ``metrics.jsonl``."""
        if is_main_process():
            self._files.append_metrics(entry)
        if self._events is not None:
            self._events.append(entry)

    def save(self, step: int, arrays: PyTree, accuracy: float | None) -> None:
        """Begins to save; returns when the arrays may be changed again."""
        numbers = None if accuracy is None else {"validation_accuracy": accuracy}
        self._checkpoints.save(step, arrays, numbers)

    def wait(self) -> None:
        """Waits for what is being saved."""
        self._checkpoints.wait()

    def close(self) -> None:
        """Waits for what is being saved and lets go of the directory."""
        self._checkpoints.close()
        if self._events is not None:
            self._events.close()
