"""Files that are complete or absent, even after a power failure, and only files."""

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from dal_jax.errors import InputError

# Errors of file systems that cannot sync a directory; they order renames themselves.
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF)


def write_atomically(
    path: str | os.PathLike[str], write: Callable[[BinaryIO], object]
) -> None:
    """Writes a file so that readers see all of it or none, even after a crash.

    The content is written in the same directory, under a hidden name that ends in
    ``.partial``, and synced before the file is renamed. When this returns, the file and
    its name are on disk. If it raises, an older file is unchanged.

    Args:
      path: of the file; its directory must exist.
      write: a function that writes the content to a binary file; it may seek.

    Raises:
      OSError: if the file cannot be written, e.g. because the disk is full.

    Example:
      >>> import tempfile
      >>> directory = Path(tempfile.mkdtemp())
      >>> write_atomically(directory / "a.txt", lambda file: file.write(b"whole"))
      >>> [(file.name, file.read_text()) for file in directory.iterdir()]
      [('a.txt', 'whole')]
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Waits until the names in a directory are on disk, for example after a rename.

    Args:
      path: of the directory. If its file system cannot sync it, this does nothing.

    Example:
      >>> sync_directory(".")
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(directory)


def why_unread(error: Exception) -> str:
    """Returns in a few words why numpy did not read a file.

    What it does not know it takes for a pickle, and says how to run that all the same.

    Example:
      >>> why_unread(ValueError("Cannot load when allow_pickle=False"))
      'no plain array of numpy is in it'
      >>> why_unread(EOFError("No data left in file"))
      'No data left in file'
    """
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    if "allow_pickle" in text or "Python objects" in text:
        return "no plain array of numpy is in it"
    return text or type(error).__name__


def require_file(path: str | os.PathLike[str], expected: str) -> Path:
    """Returns the path of a regular file, ``~`` expanded.

    Opening a named pipe would wait until somebody writes to it, and a device may do
    anything.

    Args:
      path: of the file.
      expected: what it should be, for the message.

    Raises:
      InputError: there is nothing, or it is no regular file.

    Example:
      >>> require_file("/dev/null", "an .npy")
      Traceback (most recent call last):
      dal_jax.errors.InputError: /dev/null is no regular file: expected an .npy; check
      the path
    """
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
    except OSError:
        raise InputError(
            f"there is no file {path}: expected {expected}; check the path"
        ) from None
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{path} is no regular file: expected {expected}; check the path"
        )
    return path
