"""A disk cache of arrays that take long to make, keyed by everything that decides them.

An entry is a directory that appears whole or not at all. If anything goes wrong with
the cache, such as a full disk or a damaged entry, it costs time but never stops a run.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dal_jax.files import sync_directory, write_atomically

# Part of every key: change it whenever decoding changes, so old entries are not found.
_VERSION = 2


def directory(cache_dir: str | None) -> Path | None:
    """Returns where decoded data is kept, or None if nowhere.

    Args:
      cache_dir: ``dataset.cache_dir``: a directory, ``""`` for no cache, or None for
        ``$XDG_CACHE_HOME/dal_jax`` (``~/.cache/dal_jax``).

    Example:
      >>> directory("") is None, directory("decoded").name
      (True, 'decoded')
    """
    if cache_dir == "":
        return None
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "dal_jax"


def key(**parts: Any) -> str:
    """Returns the key of an entry: a digest of everything that decides its content.

    Args:
      **parts: JSON values.

    Example:
      >>> key(files="abc", image_size=32) == key(image_size=32, files="abc")
      True
    """
    text = json.dumps({"version": _VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read(root: Path | None, entry: str) -> tuple[dict[str, np.ndarray], Any] | None:
    """Returns an entry's arrays, mapped from disk, and its notes; None if absent.

    Every byte is checked. A damaged entry is removed, and counts as absent.

    Args:
      root: the cache's directory, None for no cache.
      entry: its key.
    """
    if root is None or not (root / entry).is_dir():
        return None
    try:
        content = json.loads((root / entry / "notes.json").read_bytes())
        arrays = {
            name: np.load(root / entry / f"{name}.npy", "r", allow_pickle=False)
            for name in content["arrays"]
        }
        if content["checksum"] == _checksum(arrays, content["notes"]):
            return arrays, content["notes"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not what was written
    shutil.rmtree(root / entry, ignore_errors=True)
    return None


def write(
    root: Path | None, entry: str, arrays: dict[str, np.ndarray], notes: Any
) -> None:
    """Stores arrays and notes as one entry, if possible.

    Args:
      root: the cache's directory, None for no cache.
      entry: its key.
      arrays: by name.
      notes: any JSON value.
    """
    if root is None:
        return
    content = {
        "arrays": sorted(arrays),
        "checksum": _checksum(arrays, notes),
        "notes": notes,
    }
    partial = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
        for name, array in arrays.items():
            save = functools.partial(np.save, arr=array, allow_pickle=False)
            write_atomically(partial / f"{name}.npy", save)
        text = json.dumps(content).encode()
        write_atomically(partial / "notes.json", lambda file: file.write(text))
        partial.rename(root / entry)
        sync_directory(root)
    except OSError:
        # No space, no permission, or another run was first.
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _checksum(arrays: dict[str, np.ndarray], notes: Any) -> int:
    """Returns a CRC-32 of all that an entry holds; 4 GB/s, where SHA-256 has 1.8."""
    checksum = zlib.crc32(json.dumps(notes).encode())
    for name, array in sorted(arrays.items()):
        header = f"{name} {array.dtype.str} {array.shape}"
        checksum = zlib.crc32(header.encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum
