"""Arrays that are costly to make, kept on disk under a key of all that decides them.

An entry is a directory that appears whole or not at all. Whatever goes wrong with the
cache, a full disk or a damaged entry, costs time and never a run.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

# Part of every key: a change of what decoding means makes old entries unreachable.
_VERSION = 1


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

    Args:
      root: the cache's directory, None for no cache.
      entry: its key.
    """
    if root is None or not (root / entry).is_dir():
        return None
    try:
        notes = json.loads((root / entry / "notes.json").read_text())
        arrays = {
            path.stem: np.load(path, mmap_mode="r", allow_pickle=False)
            for path in (root / entry).glob("*.npy")
        }
    except (OSError, ValueError):
        shutil.rmtree(root / entry, ignore_errors=True)
        return None
    return arrays, notes


def write(
    root: Path | None, entry: str, arrays: dict[str, np.ndarray], notes: Any
) -> None:
    """Keeps arrays and notes as one entry, if it can.

    Args:
      root: the cache's directory, None for no cache.
      entry: its key.
      arrays: by name.
      notes: any JSON value.
    """
    if root is None:
        return
    partial = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        (partial / "notes.json").write_text(json.dumps(notes))
        partial.rename(root / entry)
    except OSError:
        # No space, no permission, or another run was first.
        if partial is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(partial)
