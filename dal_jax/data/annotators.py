"""Labels of several annotators: how far they agree, and what is made of them.

Annotators' labels are integers ``[N, A]``, a column an annotator, -1 where one gave no
label. Noise, metrics and the audit always take the majority; with ``distribution`` the
loss is given the annotators' shares instead.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dal_jax.data.split import Split
from dal_jax.errors import InputError, unknown_name
from dal_jax.files import require_file

WAYS = ("majority", "distribution")
MISSING = -1


class Agreement(NamedTuple):
    """How far annotators agree.

    Attributes:
      pairs: the share of pairs of labels of one example that are the same; nan if no
        example has two.
      kappa: Fleiss' (1971): how much of what chance leaves open is agreed,
        ``(pairs - chance) / (1 - chance)`` with ``chance`` the sum of the classes'
        squared shares. Examples count by their pairs, so that some may lack labels.
    """

    pairs: float
    kappa: float


def counts(given: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many annotators gave each class, int32 ``[N, num_classes]``.

    Example:
      >>> counts(np.array([[0, 2, 2], [1, -1, -1]]), 3).tolist()
      [[1, 0, 2], [0, 1, 0]]
    """
    result = np.zeros((len(given), num_classes), np.int32)
    rows, columns = np.nonzero(given != MISSING)
    np.add.at(result, (rows, given[rows, columns]), 1)
    return result


def majority(given: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the class that most annotators gave each example, int32 ``[N]``.

    Of classes that are given equally often, it is the one that the first of their
    annotators gave.

    Example:
      >>> majority(np.array([[0, 2, 2], [1, 0, -1]]), 3).tolist()
      [2, 1]
    """
    votes = counts(given, num_classes)
    most = votes.max(axis=1, keepdims=True)
    known = given != MISSING
    leads = known & (np.take_along_axis(votes, np.where(known, given, 0), 1) == most)
    first = np.argmax(leads, axis=1)
    return given[np.arange(len(given)), first].astype(np.int32)


def shares(given: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the annotators' labels as distributions, float32 ``[N, num_classes]``.

    Example:
      >>> shares(np.array([[0, 2, 2, 2], [1, -1, -1, -1]]), 3).tolist()
      [[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]
    """
    votes = counts(given, num_classes)
    return (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32)


def agreement(given: np.ndarray, num_classes: int) -> Agreement:
    """Returns how far annotators agree.

    Example:
      >>> agreement(np.array([[0, 0, 1], [1, 1, -1]]), 2)
      Agreement(pairs=0.5, kappa=-0.042)
    """
    votes = counts(given, num_classes).astype(np.float64)
    number = votes.sum(axis=1)
    all_pairs = (number * (number - 1)).sum()
    if not all_pairs:
        return Agreement(float("nan"), float("nan"))
    pairs = float((votes * (votes - 1)).sum() / all_pairs)
    chance = float(((votes.sum(axis=0) / votes.sum()) ** 2).sum())
    kappa = (pairs - chance) / (1 - chance) if chance < 1 else float("nan")
    return Agreement(pairs, kappa)


def read(path: str | Path) -> np.ndarray:
    """Reads annotators' labels, integers ``[N, A]``, from an ``.npy`` file.

    Raises:
      InputError: no such file, or no such array in it.
    """
    file = require_file(Path(path), "an .npy file")
    try:
        given = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        given = None
    if (
        not isinstance(given, np.ndarray)
        or given.ndim != 2
        or given.dtype.kind not in "iu"
    ):
        raise InputError(
            f"{path} holds no labels of annotators: expected an .npy of integers "
            "[examples, annotators], -1 for none; write one"
        )
    return given.astype(np.int32)


def check(given: np.ndarray, num_classes: int, where: str) -> None:
    """Raises InputError for labels out of range, and examples that nobody labelled.

    Args:
      given: integers ``[N, A]``.
      num_classes: of the data set.
      where: what holds the labels, for the message.
    """
    bad = (given < MISSING) | (given >= num_classes)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{where}: annotator {column} gave row {row} the label "
            f"{given[row, column]}: expected 0 to {num_classes - 1}, or -1 for none; "
            "fix it"
        )
    empty = np.flatnonzero((given == MISSING).all(axis=1))
    if len(empty):
        few = ", ".join(map(str, empty[:5])) + ", ..." * (len(empty) > 5)
        raise InputError(
            f"{where}: all annotators left {len(empty)} examples without a label, rows "
            f"{few}: expected one label or more for each; remove these examples"
        )


def annotated(
    split: Split, given: np.ndarray, num_classes: int, way: str
) -> tuple[Split, str]:
    """Returns a split with what annotators' labels make of it, and a line about them.

    Args:
      split: the examples.
      given: the labels of the same examples, integers ``[N, A]``, checked.
      num_classes: of the data set.
      way: ``"majority"`` or ``"distribution"``.
    """
    check_way(way)
    distributions = shares(given, num_classes) if way == "distribution" else None
    split = dataclasses.replace(
        split, labels=majority(given, num_classes), label_distributions=distributions
    )
    pairs, kappa = agreement(given, num_classes)
    number = np.mean(np.sum(given != MISSING, axis=1))
    line = f"{given.shape[1]} annotators, {number:.2f} labels an example on average: "
    if np.isnan(pairs):
        line += "no example has two, so how far they agree is not known"
    else:
        line += f"{pairs:.1%} of pairs agree, Fleiss' kappa {kappa:.3f}"
    return split, line


def check_way(way: str) -> None:
    """Raises InputError for a name that is none of :data:`WAYS`."""
    if way not in WAYS:
        raise unknown_name("dataset.annotators", way, WAYS)


def rows_of(given: np.ndarray, split: Split, where: str) -> np.ndarray:
    """Returns the rows of a file in the original order that belong to a split.

    Raises:
      InputError: the file has another number of rows than the source has examples, or
        the source records no original order.
    """
    if not split.index_is_original:
        raise InputError(
            f"{where}: the data set records no original order, so rows cannot be "
            "matched with its examples; use dataset.name=list with label_columns"
        )
    if len(given) != split.source_size:
        raise InputError(
            f"{where} has {len(given)} rows and the data set {split.source_size} "
            "examples: expected one row an example, in the original order; give the "
            "file that belongs to it"
        )
    return given[split.index]


def columns_of(text: str) -> Sequence[str]:
    """Returns the columns that ``dataset.label_columns`` names.

    Raises:
      InputError: fewer than two, or one twice.

    Example:
      >>> columns_of("ann, ben")
      ('ann', 'ben')
    """
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) < 2 or len(set(names)) < len(names) or "" in names:
        raise InputError(
            f"dataset.label_columns={text}: expected two columns or more, each once, "
            "as ann,ben; use dataset.label_column for a single one"
        )
    return names
