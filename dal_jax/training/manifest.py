"""A list of a directory's files, to tell damage from other problems.

It is written into a directory before the directory gets its final name, and lists each
file below it with size and CRC-32. If a file is missing or differs from the list, the
directory is damaged. If all files are as listed and reading still fails, there is
another cause.
"""

import json
import os
import zlib
from pathlib import Path

from dal_jax.files import sync_directory, write_atomically

_NAME = "manifest.json"
_BLOCK = 1 << 20


def write(directory: Path) -> None:
    """Lists the files in the subdirectories of a directory, and syncs them all.

    Files of the directory itself are not listed; who finishes it may change them.

    Raises:
      OSError: if that cannot be written.
    """
    files = {}
    for parent in [path for path in directory.rglob("*") if path.is_dir()]:
        for path in [path for path in parent.iterdir() if path.is_file()]:
            with path.open("rb") as file:
                files[str(path.relative_to(directory))] = _size_and_crc(file)
                os.fsync(file.fileno())
        sync_directory(parent)
    content = json.dumps({"files": files}, indent=0).encode()
    write_atomically(directory / _NAME, lambda file: file.write(content))


def exists(directory: Path) -> bool:
    """Returns whether a directory has a list of its files."""
    return (directory / _NAME).exists()


def damage(directory: Path) -> str | None:
    """Returns what is wrong with a directory's files, None if they are as listed.

    A directory without a list counts as whole.

    Raises:
      OSError: if a file cannot be read now.
    """
    if not exists(directory):
        return None
    try:
        files = json.loads((directory / _NAME).read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return f"its {_NAME} is not readable"
    for name, listed in files.items():
        try:
            with (directory / name).open("rb") as file:
                found = _size_and_crc(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return f"{name} is missing"
        if found != listed:
            return f"{name} is not as it was written"
    return None


def _size_and_crc(file) -> list[int]:
    size = crc = 0
    while block := file.read(_BLOCK):
        size += len(block)
        crc = zlib.crc32(block, crc)
    return [size, crc]
