"""A CSV file of image paths, given labels and, where known, clean labels.

The first line names the columns: ``path``, ``label`` and, if known, ``clean_label``;
others are ignored. Clothing1M, Food-101N or your own export can be written like this.
Labels are class names, or integers from 0 if all of them are integers.
"""

import csv
from pathlib import Path

import numpy as np

from dal_jax.data.images import FileImages
from dal_jax.data.split import Dataset, Split
from dal_jax.errors import InputError


def load(
    train_path: str | None,
    test_path: str | None,
    *,
    data_dir: str | None = None,
    label_column: str = "label",
    clean_label_column: str = "clean_label",
    channels: int | None = None,
    image_size: int | None = None,
) -> Dataset:
    """Returns a data set of lists; images are listed, not yet decoded.

    Args:
      train_path: the CSV file of the training examples.
      test_path: likewise for testing, with no class of its own; None for no test
        split.
      data_dir: what paths in the files are relative to; default the directory of the
        CSV file itself.
      label_column: the column of the given labels.
      clean_label_column: the column of the clean ones; it may be absent.
      channels: 1 or 3; default 3.
      image_size: see :func:`dal_jax.data.decode.decode`.

    Returns:
      The data set; ``index`` is the row, the first after the header being 0. Classes
      are the names in training, given and clean, in alphabetical order; of integers,
      0 to the largest.

    Raises:
      InputError: if a file or column is missing, or a label is empty or unknown.
    """
    if train_path is None:
        raise InputError(
            "dataset.name=list needs dataset.train_path, a CSV file with the columns "
            f"path and {label_column}"
        )
    columns = (label_column, clean_label_column)
    train = _read(Path(train_path).expanduser(), *columns)
    class_names = _class_names(train)

    def split(table: dict[str, list[str]], csv_path: str) -> Split:
        path = Path(csv_path).expanduser()
        root = Path(data_dir).expanduser() if data_dir is not None else path.parent
        clean = table.get("clean_label")
        paths = tuple(str(root / x) for x in table["path"])
        return Split(
            inputs=FileImages(channels or 3, image_size, paths),
            labels=_numbers(table["label"], class_names, label_column, path),
            index=np.arange(len(paths)),
            clean_labels=(
                None
                if clean is None
                else _numbers(clean, class_names, clean_label_column, path)
            ),
            source_size=len(paths),
            names=np.array(paths, object),
        )

    test = None
    if test_path is not None:
        test = split(_read(Path(test_path).expanduser(), *columns), test_path)
    return Dataset("list", split(train, train_path), test, class_names)


def _read(
    path: Path, label_column: str, clean_label_column: str
) -> dict[str, list[str]]:
    """Returns the columns path, label and, if there is one, clean_label."""
    if not path.is_file():
        raise InputError(f"no file {path}: expected a CSV file; check the path")
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or []
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is no CSV file ({error}): expected UTF-8 text; export it again"
        ) from None
    for column in ("path", label_column):
        if column not in present:
            raise InputError(
                f"{path} has no column {column!r}, it has "
                f"{', '.join(present) or 'none'}: expected path and label; rename it "
                "or set dataset.label_column"
            )
    if not rows:
        raise InputError(
            f"{path} lists no image: expected one per line after the header; add them"
        )
    columns = {"path": "path", "label": label_column}
    if clean_label_column in present:
        columns["clean_label"] = clean_label_column
    table = {}
    for key, column in columns.items():
        table[key] = [(row[column] or "").strip() for row in rows]
        if "" in table[key]:
            raise InputError(
                f"{path}: row {table[key].index('')} has no {column}: expected one in "
                "every row; fill it in or remove the row"
            )
    return table


def _class_names(table: dict[str, list[str]]) -> tuple[str, ...]:
    names = {*table["label"], *table.get("clean_label", [])}
    if all(_is_integer(name) for name in names):
        return tuple(str(label) for label in range(max(map(int, names)) + 1))
    return tuple(sorted(names))


def _numbers(
    labels: list[str], class_names: tuple[str, ...], column: str, path: Path
) -> np.ndarray:
    number = {name: label for label, name in enumerate(class_names)}
    # The integer "07" names the class "7".
    integers = all(_is_integer(name) for name in class_names)
    labels = [str(int(x)) if integers and _is_integer(x) else x for x in labels]
    for row, label in enumerate(labels):
        if label not in number:
            known = ", ".join(class_names[:10]) + (", ..." * (len(class_names) > 10))
            raise InputError(
                f"{path}: row {row} has the {column} {label!r}, expected a class of "
                f"training ({known}); fix the label"
            )
    return np.array([number[label] for label in labels], np.int32)


def _is_integer(text: str) -> bool:
    return text.lstrip("-").isascii() and text.lstrip("-").isdigit()
