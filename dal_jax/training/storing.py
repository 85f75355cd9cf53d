"""What goes wrong in writing a run, as one exception of one line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class StorageError(RuntimeError):
    """A run that cannot be written or read: one line with why and what to do."""


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns the system's errors in writing below ``path`` into a StorageError."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def cannot_write(path: Path, reason: str) -> StorageError:
    """Returns the error for a run that could not be written."""
    return StorageError(
        f"cannot write to {path} ({reason}); what was saved before is whole: "
        "fix that, and the same command goes on from there"
    )
