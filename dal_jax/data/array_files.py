"""Reads inputs and labels from array files: ``.npz``, ``.npy``, Parquet, CSV.

Nothing is ever unpickled, and only regular files are opened.
"""

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dal_jax.data import listing, parquet
from dal_jax.errors import InputError
from dal_jax.files import require_file, why_unread

KINDS = ("images", "inputs")
_LABELS = ("labels", "clean_labels", "class_names")
_EXPECTED = "an .npz, an .npy or a .parquet"


class Columns(NamedTuple):
    """What tables call their columns, see ``config.DatasetConfig``."""

    label: str = "label"
    clean_label: str = "clean_label"
    inputs: tuple[str, ...] | None = None


def read(
    path: str | os.PathLike[str],
    labels_path: str | os.PathLike[str] | None,
    columns: Columns,
) -> dict[str, Any]:
    """Returns what one or two files hold, by name.

    Args:
      path: of the inputs, and of the labels where ``labels_path`` is None.
      labels_path: of the labels: ``.npy``, ``.npz`` or ``.csv``.
      columns: of tables.

    Returns:
      ``images`` or ``inputs``; ``labels`` and perhaps ``clean_labels``, arrays, or
      lists of text; perhaps ``class_names``, and ``names`` of the examples; of a table
      ``columns``, those of the inputs.

    Raises:
      InputError: a file that is missing, or of another kind, or lacks something.
    """
    path = require_file(path, _EXPECTED)
    labelled = labels_path is None
    if path.suffix == ".parquet":
        arrays = parquet.read(
            path,
            columns.inputs,
            label_column=columns.label if labelled else None,
            clean_label_column=columns.clean_label,
        )
    elif path.suffix == ".npy" and not labelled:
        arrays = {_kind_of_name(path) or "inputs": _load(path)}
    elif path.suffix == ".npy":
        arrays = _read_neighbours(path)
    elif path.suffix == ".npz":
        arrays = _read_archive(path, (*KINDS, *(_LABELS if labelled else ())))
    else:
        raise InputError(
            f"{path} is no array file: expected {_EXPECTED}; save it as one of them"
        )
    _check_kind(arrays, path)
    if not labelled:
        arrays |= _read_labels(labels_path, columns)
    if "labels" not in arrays:
        raise _lacks(labels_path or path, "no labels", arrays)
    return arrays


def _kind_of_name(path: Path) -> str | None:
    return next((kind for kind in KINDS if kind in path.name), None)


def _read_neighbours(path: Path) -> dict[str, Any]:
    """Reads inputs and the files whose names differ from theirs by one word."""
    word = _kind_of_name(path)
    if word is None:
        raise InputError(
            f"{path} holds inputs alone: expected their labels too; set "
            "dataset.train_labels and dataset.test_labels, or put 'images' or 'inputs' "
            "into its name and 'labels' into that of a file in the same directory"
        )
    paths = {key: path.with_name(path.name.replace(word, key)) for key in _LABELS}
    paths = {word: path} | {key: x for key, x in paths.items() if x.exists()}
    arrays = {key: _load(file) for key, file in paths.items()}
    return arrays | {"there": [file.name for file in paths.values()]}


def _read_archive(path: Path, wanted: tuple[str, ...]) -> dict[str, Any]:
    archive = _load(path, wanted)
    if isinstance(archive, np.ndarray):
        raise InputError(
            f"{path} is a single array: expected an archive of arrays; rename it to "
            ".npy"
        )
    return archive


def _read_labels(
    path: str | os.PathLike[str] | None, columns: Columns
) -> dict[str, Any]:
    path = require_file(path or "", "labels as .npy, .npz or .csv")
    if path.suffix == ".npz":
        return _read_archive(path, _LABELS)
    if path.suffix == ".npy":
        return {"labels": _load(path)}
    if path.suffix != ".csv":
        raise InputError(f"{path} holds no labels: expected an .npy, .npz or .csv")
    optional = (columns.clean_label, "path")
    table = listing.read_table(path, (columns.label,), optional)
    arrays: dict[str, Any] = {"labels": table[columns.label]}
    if columns.clean_label in table:
        arrays["clean_labels"] = table[columns.clean_label]
    if "path" in table:
        arrays["names"] = np.array(table["path"], object)
    return arrays


def _load(path: Path, wanted: tuple[str, ...] = ()) -> Any:
    """Returns a mapped array, or some arrays of an archive by name."""
    path = require_file(path, "an array file")
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded as archive:
            arrays = {key: archive[key] for key in archive.files if key in wanted}
            return arrays | {"there": archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} does not load ({why_unread(error)}): expected plain numpy "
            "arrays, nothing pickled; save it again with numpy"
        ) from None


def _check_kind(arrays: dict[str, Any], path: Path) -> None:
    kinds = [kind for kind in KINDS if kind in arrays]
    if len(kinds) != 1:
        found = "both images and inputs" if kinds else "no images and no inputs"
        raise _lacks(path, found, arrays)


def _lacks(path: Any, found: str, arrays: dict[str, Any]) -> InputError:
    there = ", ".join(arrays.get("there", [*arrays])) or "nothing"
    return InputError(
        f"{path} has {found}, it has {there}: expected images or inputs, and labels; "
        "rename the array"
    )
