"""An array that grows block by block, in any order, by any number of processes.

Until it is whole it is a directory: ``rows.npy``, which has its final size from the
beginning; ``plan.json``, what is being made; and a file ``done-N`` for each process,
with a line for each block that is on disk. A block counts from the moment its line is
whole, so a kill at any time costs the blocks that were in flight.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.errors import InputError
from dal_jax.files import sync_directory

_ROWS, _PLAN, _DONE = "rows.npy", "plan.json", "done-"
_AT_ONCE = 2**24


class PartialArray:
    """A float32 array ``[N, D]`` in the making.

    Example:
      >>> import tempfile
      >>> home = Path(tempfile.mkdtemp())
      >>> partial = PartialArray(home / "a.npy.partial")
      >>> partial.begin({"of": "example"}, (3, 2))
      >>> with partial.writer(0) as write:
      ...     write(1, 2, np.ones((1, 2), np.float32), {})
      ...     write(0, 0, np.zeros((2, 2), np.float32), {})
      >>> sorted(partial.done())
      [0, 1]
      >>> with partial.alone():
      ...     partial.finish(home / "a.npy", np.array([True, False, True]))
      >>> np.load(home / "a.npy").tolist()
      [[0.0, 0.0], [1.0, 1.0]]
    """

    def __init__(self, path: Path):
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether an array is in the making here."""
        return (self.path / _PLAN).is_file()

    def begin(self, plan: Mapping[str, Any], shape: tuple[int, int]) -> None:
        """Makes the directory, or checks that what is there is of the same plan.

        Raises:
          InputError: it is of another plan.
          OSError: it cannot be written, e.g. because the disk is full.
        """
        if not self.exists:
            self._make(plan, shape)
        before = json.loads((self.path / _PLAN).read_text())
        differ = [x for x in sorted({*before, *plan}) if before.get(x) != plan.get(x)]
        if differ:
            name = differ[0]
            raise InputError(
                f"{self.path} holds unfinished work of another {name}, "
                f"{before.get(name)} and not {plan.get(name)}: expected the same "
                "command to go on; give that, or remove the directory"
            )

    def _make(self, plan: Mapping[str, Any], shape: tuple[int, int]) -> None:
        new = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        new.mkdir()
        try:
            (new / _PLAN).write_text(json.dumps(plan, indent=2) + "\n")
            with (new / _ROWS).open("xb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                file.flush()
                _reserve(file, file.tell() + 4 * shape[0] * shape[1])
            # The directory appears whole; another process may have been first.
            try:
                new.rename(self.path)
            except OSError:
                if not self.exists:
                    raise
            sync_directory(self.path.parent)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def done(self) -> dict[int, Any]:
        """Returns the blocks that are on disk, with what was noted of each."""
        noted = {}
        for file in sorted(self.path.glob(f"{_DONE}*")):
            for line in file.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the last one may be torn
                    block, note = json.loads(line)
                    noted[block] = note
        return noted

    @contextlib.contextmanager
    def writer(
        self, process: int
    ) -> Iterator[Callable[[int, int, np.ndarray, Any], None]]:
        """Gives one process ``write(block, first row, rows, note)``.

        Raises:
          InputError: a process of the same number is at work.
        """
        path = self.path / f"{_DONE}{process}"
        with (self.path / _ROWS).open("r+b") as file, path.open("a+b") as record:
            try:
                fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    f"process {process} is at work in {self.path} already: expected "
                    "one of each number; wait for it, or give another --process_id"
                ) from None
            offset, width = _data(file)
            record.write(b"\n")  # ends a line that a kill may have torn

            def write(block: int, first: int, rows: np.ndarray, note: Any) -> None:
                file.seek(offset + first * width)
                file.write(np.ascontiguousarray(rows, "<f4").data)
                _sync(file)
                record.write(json.dumps([block, note]).encode() + b"\n")
                _sync(record)

            yield write

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits until no other process finishes the array, and keeps others off.

        Raises:
          FileNotFoundError: another one has finished it.
        """
        with (self.path / _PLAN).open("rb") as plan:
            fcntl.flock(plan, fcntl.LOCK_EX)
            (self.path / _PLAN).stat()  # another may have finished it meanwhile
            yield

    def finish(self, out: Path, kept: np.ndarray) -> None:
        """Puts the array where it belongs, and removes the directory.

        Args:
          out: of the finished array; if it exists, a process that was killed then has
            put it there.
          kept: bool ``[N]``, the rows to keep.
        """
        if not out.exists():
            rows = self.path / _ROWS
            if not kept.all():
                rows = self.path / "kept.npy"
                _copy(self.path / _ROWS, rows, np.flatnonzero(kept))
            rows.rename(out)
            sync_directory(out.parent)
        self.remove()

    def remove(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self.path)


def _data(file: Any) -> tuple[int, int]:
    """Returns where an open ``.npy`` has its rows, and their bytes."""
    np.lib.format.read_magic(file)
    (_, columns), _, dtype = np.lib.format.read_array_header_1_0(file)
    return file.tell(), columns * dtype.itemsize


def _copy(source: Path, target: Path, positions: np.ndarray) -> None:
    rows = np.load(source, "r")
    shape = (len(positions), rows.shape[1])
    out = np.lib.format.open_memmap(target, "w+", np.float32, shape)
    at_once = max(1, _AT_ONCE // max(rows.shape[1], 1))
    for first in range(0, len(positions), at_once):
        some = positions[first : first + at_once]
        out[first : first + len(some)] = rows[some]
    out.flush()


def _reserve(file: Any, size: int) -> None:
    """Gives a file its size, and the room where the system can promise that."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    file.truncate(size)
    os.fsync(file.fileno())


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
