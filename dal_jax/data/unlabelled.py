"""Inputs without labels: a folder of images, a list, a single image, or an array."""

import csv
import dataclasses
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dal_jax.data import parquet
from dal_jax.data.folder import images_below
from dal_jax.errors import InputError
from dal_jax.files import require_file, why_unread


@dataclasses.dataclass(frozen=True)
class Unlabelled:
    """Inputs, each with a name.

    Attributes:
      names: one per input: its path below the folder, its path as in the list, or its
        position in the array.
      inputs: the paths of image files, or an array ``[N, ...]``.
    """

    names: Sequence[str]
    inputs: list[str] | np.ndarray

    def __len__(self) -> int:
        return len(self.names)


def find(
    path: str | os.PathLike[str], columns: Sequence[str] | None = None
) -> Unlabelled:
    """Returns the inputs at a path; images are not yet decoded.

    Args:
      path: a folder, whose images are read at any depth; a ``.csv`` with a column
        ``path``, relative to the file itself; an ``.npy``; an ``.npz`` with ``images``
        or ``inputs`` or a single array; a ``.parquet``; or an image file.
      columns: of a Parquet file, those to take; see :func:`dal_jax.data.parquet.read`.

    Raises:
      InputError: the path does not exist, or holds no inputs.
    """
    path = Path(path).expanduser()
    try:
        path.stat()
    except OSError as error:
        raise InputError(
            f"no file or folder {path} ({error.strerror}): expected images, a .csv, an "
            ".npy, an .npz or a .parquet; check the path"
        ) from None
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _list(path)
    if suffix in (".npy", ".npz", ".parquet"):
        path = require_file(path, f"a file of the kind {suffix}")
        is_table = suffix == ".parquet"
        array = parquet.read(path, columns)["inputs"] if is_table else _array(path)
        return Unlabelled([str(i) for i in range(len(array))], array)
    return Unlabelled([str(path)], [str(path)])


def _folder(path: Path) -> Unlabelled:
    paths = images_below(path)
    if not paths:
        raise InputError(
            f"{path} holds no image: expected image files in it or in its folders; "
            "check the path"
        )
    return Unlabelled([os.path.relpath(image, path) for image in paths], paths)


def _list(path: Path) -> Unlabelled:
    path = require_file(path, "a CSV file")
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is no CSV file ({error}): expected UTF-8 text; export it again"
        ) from None
    names = [(row.get("path") or "").strip() for row in rows]
    if not names or "" in names:
        where = f"row {names.index('')} has no path" if names else "it has no row"
        raise InputError(
            f"{path} is no list of images ({where}): expected a column path, filled in "
            "in every row; fix the file"
        )
    return Unlabelled(names, [str(path.parent / name) for name in names])


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(array, np.ndarray):
            return _with_rows(path, array)
        with array as archive:
            known = [name for name in ("images", "inputs") if name in archive.files]
            names = known or archive.files
            if len(names) == 1:
                return _with_rows(path, archive[names[0]])
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} does not load ({why_unread(error)}): expected plain numpy "
            "arrays, nothing pickled; save it again with numpy"
        ) from None
    raise InputError(
        f"{path} has the arrays {', '.join(names) or 'none'}: expected images or "
        "inputs, or a single array; rename the one to use"
    )


def _with_rows(path: Path, array: np.ndarray) -> np.ndarray:
    if array.ndim == 0 or len(array) == 0:
        raise InputError(
            f"{path} is an array of shape {list(array.shape)}: expected [N, ...] with "
            "at least one input; save it again"
        )
    return array
