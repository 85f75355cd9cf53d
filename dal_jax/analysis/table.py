"""The audit as a CSV file, and what a person corrected in it."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dal_jax.analysis.label_issues import LabelIssues
from dal_jax.errors import InputError

COLUMNS = (
    "rank",
    "index",
    "name",
    "given_label",
    "suggested_label",
    "score",
    "is_issue",
    "corrected_label",
)
# As a corrected label: the example is to be left out of training.
LEFT_OUT = "-1"
# What spreadsheets write between the columns.
_DELIMITERS = ",;\t"


def write_table(
    file: BinaryIO,
    issues: LabelIssues,
    index: np.ndarray,
    class_names: Sequence[str],
    names: np.ndarray | None = None,
) -> None:
    """Writes one line per example, the most suspicious first, as UTF-8.

    Args:
      file: to write to.
      issues: the audit.
      index: integers ``[N]``, each example's original index.
      class_names: ``K`` of them.
      names: bytes ``[N]``, e.g. the paths of images; ``None`` where there are none.

    Example:
      >>> from dal_jax.analysis import label_issues
      >>> true = np.arange(100) // 50
      >>> seen = np.random.default_rng(0).dirichlet([1, 1], 100) + 9 * np.eye(2)[true]
      >>> given = np.where(np.arange(100) == 7, 1, true)
      >>> file = io.BytesIO()
      >>> write_table(file, label_issues(given, seen), np.arange(100), ("cat", "dog"))
      >>> file.getvalue().decode().splitlines()[1][:12]
      '1,7,,dog,cat'
    """
    classes = np.array(class_names, object)
    order = issues.order
    text = io.TextIOWrapper(
        file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True
    )
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(
        zip(
            range(1, len(order) + 1),
            index[order].tolist(),
            [""] * len(order) if names is None else map(os.fsdecode, names[order]),
            classes[issues.given[order]],
            classes[issues.suggested[order]],
            map("{:.6f}".format, issues.score[order].tolist()),
            issues.is_issue[order].astype(int).tolist(),
            [""] * len(order),
            strict=True,
        )
    )
    text.flush()
    text.detach()


def read_corrections(
    path: str | os.PathLike[str], index: np.ndarray, class_names: Sequence[str]
) -> dict[int, int]:
    """Returns the corrected labels in a table, by original index.

    Lines may be in any order, and missing; columns other than ``index`` and
    ``corrected_label`` are not read. Semicolons and tabs between them are understood.

    Args:
      path: of the CSV file.
      index: integers ``[N]``, those of the run.
      class_names: ``K`` of them.

    Returns:
      By index a class number, or -1 for an example to leave out of training.

    Raises:
      InputError: no such table, or a corrected label that is no class, or an index
        that is not of this run or comes twice; the line of the file is named.
    """
    number = {name: label for label, name in enumerate(class_names)}
    number.setdefault(LEFT_OUT, -1)
    known = set(index.tolist())
    corrected: dict[int, int] = {}
    with Path(path).open(
        newline="", encoding="utf-8-sig", errors="surrogateescape"
    ) as file:
        header = file.readline()
        delimiter = max(_DELIMITERS, key=header.count)
        columns = next(csv.reader([header], delimiter=delimiter), [])
        reader = csv.reader(file, delimiter=delimiter)
        for name in ("index", "corrected_label"):
            if name not in columns:
                raise InputError(
                    f"{path} has no column {name}: it has {_some(columns) or 'none'}"
                    ": expected a table that dal-jax audit wrote; move it away for a "
                    "new one"
                )
        place, given = columns.index("index"), columns.index("corrected_label")
        for row in reader:
            label = row[given].strip() if len(row) > given else ""
            if not label:
                continue
            line = f"{path}: line {reader.line_num + 1}"
            if label not in number:
                raise InputError(
                    f"{line} has the corrected_label {label!r}: expected a class "
                    f"({_some(class_names)}), or -1 to leave the example out; fix it"
                )
            original = int(row[place]) if row[place].strip().isdigit() else -1
            if original not in known or original in corrected:
                trouble = "twice" if original in corrected else "not in this run"
                raise InputError(
                    f"{line} has the index {row[place]!r}, which is {trouble}: "
                    "expected the indices that dal-jax audit wrote, each once; restore "
                    "it"
                )
            corrected[original] = number[label]
    return corrected


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
