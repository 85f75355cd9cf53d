"""Labels to train on again: what the audit suggests, and what a person corrected."""

import os
from pathlib import Path

import numpy as np

from dal_jax import data
from dal_jax.analysis.table import read_corrections
from dal_jax.audit.run import TABLE, Audited, positions_in
from dal_jax.errors import InputError
from dal_jax.files import write_atomically
from dal_jax.noise.files import LEFT_OUT
from dal_jax.recipe import apply_noise

ACTIONS = ("relabel", "remove", "corrected")


def new_labels(audit: Audited, action: str) -> tuple[np.ndarray, str]:
    """Returns labels to train on again, and a line on what they are.

    A corrected label in ``label_issues.csv`` always counts; the action decides about
    all other examples.

    Args:
      audit: of the run.
      action: ``"relabel"`` gives issues their suggested class, ``"remove"`` leaves
        them out of training, ``"corrected"`` changes only what a person corrected.

    Returns:
      Integers ``[source_size]`` in the source's original order, -1 for an example to
      leave out of training. Examples that were not in the run keep their labels.

    Raises:
      InputError: the data set is missing or has changed, or its original order is
        not known, or a corrected label is not a class.
    """
    if audit.config is None:
        raise InputError(
            f"the run in {audit.files.path} was trained on arrays that a program held: "
            "expected a data set with a name to write labels in its order; use "
            "FitResult.label_issues() in that program"
        )
    table = audit.files.path / TABLE
    index = audit.record.index
    corrected = (
        read_corrections(table, index, audit.class_names) if table.exists() else {}
    )
    if action == "corrected" and not corrected:
        raise InputError(
            f"{table} has no corrected label: expected classes in its last column, "
            "corrected_label; fill some in, or use --action=relabel or remove"
        )
    labels = _labels_of_source(audit)
    issues = audit.issues
    changed = issues.is_issue if action != "corrected" else np.zeros(len(index), bool)
    by_action = LEFT_OUT if action == "remove" else issues.suggested[changed]
    before = labels.copy()
    labels[index[changed]] = by_action
    labels[list(corrected)] = list(corrected.values())
    left_out = int(((labels == LEFT_OUT) & (before != LEFT_OUT)).sum())
    relabelled = int(((labels != before) & (labels != LEFT_OUT)).sum())
    of_a_person = f", {len(corrected)} labels by {TABLE}" if corrected else ""
    return labels, f"{relabelled} relabelled, {left_out} left out{of_a_person}"


def _labels_of_source(audit: Audited) -> np.ndarray:
    """Returns the given labels of the whole source in its original order."""
    config, record = audit.config, audit.record
    assert config is not None
    # Instance noise looks at the images, all other noise at labels alone.
    load = data.load if config.noise.kind == "instance" else data.listed
    dataset = load(config.dataset)
    if not dataset.train.index_is_original:
        raise InputError(
            "the data set records no original order of its examples, so no label file "
            "can match it: expected a folder, a list or another source that does"
        )
    positions_in(audit, dataset.train)
    given = apply_noise(config, dataset)
    labels = np.full(dataset.train.source_size, LEFT_OUT, np.int32)
    labels[given.index] = given.noisy_labels
    if not np.array_equal(labels[record.index], record.noisy_labels):
        raise InputError(
            "the data set gives other labels now than when the run was trained: "
            "expected the same ones; restore the data set"
        )
    return labels


def write_labels(path: str | os.PathLike[str], labels: np.ndarray) -> None:
    """Writes a label file that ``noise.kind=file`` reads; see :func:`check_output`."""
    try:
        write_atomically(path, lambda file: np.save(file, labels))
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}): expected a directory that you "
            "may write to; give another --write_labels"
        ) from None


def check_output(path: str | os.PathLike[str]) -> None:
    """Raises InputError where a label file must not or cannot be written."""
    path = Path(path)
    if path.suffix != ".npy":
        raise InputError(
            f"--write_labels={path}: expected a file name that ends in .npy; give one"
        )
    if path.exists() or path.is_symlink():
        raise InputError(
            f"{path} already exists: expected a new file, for nothing is overwritten; "
            "give another --write_labels"
        )
    if not path.parent.is_dir():
        raise InputError(
            f"the directory {path.parent} does not exist: expected one to write "
            f"{path.name} to; create it or give another --write_labels"
        )
