"""What a person sees of a comparison in progress: a table, and the time left."""

import shutil
import time
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np

from dal_jax.comparing.plan import Run


class Progress:
    """Lines on a stream, or on a terminal a table that is written again and again."""

    def __init__(
        self, runs: Sequence[Run], rows: Sequence[dict[str, Any]], stream: TextIO
    ):
        """Begins with what had finished before.

        Args:
          runs: all of the comparison.
          rows: the lines of those that had finished.
          stream: to write to.
        """
        self._runs, self._rows, self._stream = runs, list(rows), stream
        self._before, self._began = len(rows), time.monotonic()
        self._shown = 0

    def add(self, row: dict[str, Any]) -> None:
        """Shows a run that has ended."""
        self._rows.append(row)
        if not self._stream.isatty():
            method, noise, seed = row["method"], row["noise"], row["seed"]
            said = row["error"] or _accuracy(row["test_accuracy_last"])
            self._say(f"{noise}, {method}, seed {seed}: {said} ({self.status()})")
        self.show()

    def show(self) -> None:
        """Writes the table again, where there is a terminal."""
        if not self._stream.isatty():
            return
        width, height = shutil.get_terminal_size()
        lines = [*self.table(), self.status()]
        lines = [line[: width - 1] for line in lines[-max(height - 2, 1) :]]
        up = f"\x1b[{self._shown}F" if self._shown else ""
        self._stream.write(f"{up}\x1b[J" + "\n".join(lines) + "\n")
        self._stream.flush()
        self._shown = len(lines)

    def status(self) -> str:
        """Returns how much is done, and about how long the rest will take."""
        done, left = len(self._rows), len(self._runs) - len(self._rows)
        failed = sum(bool(row["error"]) for row in self._rows)
        text = f"{done} of {len(self._runs)} runs"
        text += f", {failed} failed" if failed else ""
        now = done - self._before
        if left and now:
            seconds = (time.monotonic() - self._began) / now * left
            text += f", about {duration(seconds)} left"
        return text

    def table(self) -> list[str]:
        """Returns the mean of each method and noise so far, with how many runs."""
        noises = list(dict.fromkeys(run.noise.label for run in self._runs))
        methods = list(dict.fromkeys(run.method for run in self._runs))
        cells = [["", *noises]]
        for method in methods:
            cells.append([method, *(self._cell(method, noise) for noise in noises)])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return [
            "  ".join(text.ljust(n) for text, n in zip(line, widths, strict=True))
            for line in cells
        ]

    def _cell(self, method: str, noise: str) -> str:
        rows = [r for r in self._rows if (r["method"], r["noise"]) == (method, noise)]
        known = [r["test_accuracy_last"] for r in rows]
        known = [value for value in known if value is not None]
        planned = sum((r.method, r.noise.label) == (method, noise) for r in self._runs)
        mean = f"{np.mean(known):.3f}" if known else "-"
        return f"{mean} {len(rows)}/{planned}"

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


def duration(seconds: float) -> str:
    """Returns a time that a person can grasp.

    Example:
      >>> duration(42.0), duration(500.0), duration(9000.0)
      ('42 s', '8 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _accuracy(value: float | None) -> str:
    return "no test set" if value is None else f"{value:.3f}"
