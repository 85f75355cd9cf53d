"""A CSV file of image paths, given labels and, where known, clean labels.

The first line names the columns: ``path``, ``label`` and, if known, ``clean_label``;
others are ignored. Clothing1M, Food-101N or your own export can be written like this.
Labels are class names, or integers from 0 if all of them are integers.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dal_jax.data import annotators as voted
from dal_jax.data.images import FileImages
from dal_jax.data.split import Dataset, Split
from dal_jax.errors import InputError
from dal_jax.files import require_file


def load(
    train_path: str | None,
    test_path: str | None,
    *,
    data_dir: str | None = None,
    label_column: str = "label",
    clean_label_column: str = "clean_label",
    label_columns: Sequence[str] = (),
    annotators: str = "majority",
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
      label_columns: in place of ``label_column`` for training, a column an annotator,
        whose values may be empty.
      annotators: what is made of them, see :mod:`dal_jax.data.annotators`.
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
    columns = ("path", label_column), (clean_label_column,)
    several = ("path", *label_columns), (clean_label_column,)
    train = read_table(
        Path(train_path), *(several if label_columns else columns), empty=label_columns
    )
    texts = [train[column] for column in label_columns or (label_column,)]
    every = [text for column in texts for text in column if text]
    if not every:
        raise InputError(
            f"{train_path}: all annotators left all rows without a label: expected "
            "one label or more a row; check dataset.label_columns"
        )
    class_names = class_names_of(every, train.get(clean_label_column))

    def split(
        table: dict[str, list[str]], csv_path: str, labels: np.ndarray | None = None
    ) -> Split:
        path = Path(csv_path).expanduser()
        root = Path(data_dir).expanduser() if data_dir is not None else path.parent
        clean = table.get(clean_label_column)
        paths = tuple(str(root / x) for x in table["path"])
        return Split(
            inputs=FileImages(channels or 3, image_size, paths),
            labels=(
                numbers_of(table[label_column], class_names, label_column, path)
                if labels is None
                else labels
            ),
            index=np.arange(len(paths)),
            clean_labels=(
                None
                if clean is None
                else numbers_of(clean, class_names, clean_label_column, path)
            ),
            source_size=len(paths),
            names=np.array(paths, object),
        )

    test = None
    if test_path is not None:
        test = split(read_table(Path(test_path), *columns), test_path)
    if not label_columns:
        return Dataset("list", split(train, train_path), test, class_names)
    given = np.stack(
        [
            _some_numbers(train[column], class_names, column, train_path)
            for column in label_columns
        ],
        axis=1,
    )
    voted.check(given, len(class_names), train_path)
    annotated, line = voted.annotated(
        split(train, train_path, given[:, 0]), given, len(class_names), annotators
    )
    return Dataset("list", annotated, test, class_names, notes=(line,))


def _some_numbers(
    texts: Sequence[str], class_names: Sequence[str], column: str, path: Path | str
) -> np.ndarray:
    """Class numbers, -1 where there is no text."""
    filled = [text or class_names[0] for text in texts]
    known = np.array([bool(text) for text in texts])
    numbers = numbers_of(filled, class_names, column, path)
    return np.where(known, numbers, voted.MISSING)


def read_table(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    *,
    empty: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Returns some columns of a CSV file, whose first line names them.

    Args:
      path: of the file, in UTF-8.
      columns: those that must be there.
      optional: those that may be absent.
      empty: those whose values may be empty.

    Returns:
      By name the text of every row.

    Raises:
      InputError: a file, column, row or value is missing.
    """
    path = require_file(path, "a CSV file")
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
    for column in columns:
        if column not in present:
            raise InputError(
                f"{path} has no column {column!r}, it has "
                f"{', '.join(present) or 'none'}: expected {' and '.join(columns)}; "
                "rename it or set dataset.label_column"
            )
    if not rows:
        raise InputError(
            f"{path} lists no image: expected one per line after the header; add them"
        )
    table = {}
    for column in (*columns, *(name for name in optional if name in present)):
        table[column] = [(row[column] or "").strip() for row in rows]
        if "" in table[column] and column not in empty:
            raise InputError(
                f"{path}: row {table[column].index('')} has no {column}: expected one "
                "in every row; fill it in or remove the row"
            )
    return table


def class_names_of(
    labels: Sequence[str], clean_labels: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Returns the classes of labels that are text.

    Example:
      >>> class_names_of(["dog", "ant"]), class_names_of(["1", "0"], ["2", "0"])
      (('ant', 'dog'), ('0', '1', '2'))
    """
    names = {*labels, *(clean_labels or ())}
    if all(_is_integer(name) for name in names):
        return tuple(str(label) for label in range(max(map(int, names)) + 1))
    return tuple(sorted(names))


def numbers_of(
    labels: Sequence[str], class_names: Sequence[str], column: str, path: Path | str
) -> np.ndarray:
    """Returns the class numbers of labels that are text, int32 ``[N]``.

    Raises:
      InputError: a label that is no class.
    """
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
