"""Labels from a file, matched to the examples by original index.

A label file in another order than the images is a classic silent bug. So a file is
accepted only if its order is known: by its length, by stored indices, or by the clean
labels that it must resemble.
"""

import os
from pathlib import Path

import numpy as np

from dal_jax.errors import InputError
from dal_jax.noise.checks import check_labels
from dal_jax.noise.record import NoiseRecord, read_npz, read_numpy

# Standard deviations above chance below which labels count as unrelated.
_EVIDENCE = 4.0
# The label in an ``.npy`` file that leaves an example out of training.
LEFT_OUT = -1


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the array of an ``.npy`` file.

    Args:
      path: of the file.

    Returns:
      The array.

    Raises:
      InputError: no such file, or damaged, or holding Python objects, or an archive.
    """
    content = read_numpy(path)
    if not isinstance(content, np.ndarray):
        raise InputError(
            f"{path} is an archive: expected a single array; rename it to .npz"
        )
    return content


def from_file(
    path: str | os.PathLike[str], num_examples: int, num_classes: int
) -> np.ndarray:
    """Returns the labels of an ``.npy`` file in the file's own order.

    Args:
      path: of the file, one integer an example.
      num_examples: how many there must be.
      num_classes: labels are in ``[0, num_classes)``.

    Returns:
      ``[num_examples]`` int32.

    Raises:
      InputError: no such file, or of another length, dtype or range.
    """
    labels = check_labels(read_array(path), num_classes, what=str(path))
    if len(labels) != num_examples:
        raise InputError(
            f"{path} holds {len(labels)} labels, and there are {num_examples} "
            "examples: expected one each; give the label file of this data set"
        )
    return labels


def aligned(
    path: str | os.PathLike[str],
    index: np.ndarray,
    num_classes: int,
    *,
    source_size: int | None = None,
    index_is_original: bool = True,
    clean_labels: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the label of each example used from a file, or refuses the file.

    - ``.npz`` (a noise record): matched by its stored indices. If both sides know clean
      labels, they must be the same.
    - ``.npy`` with as many labels as the whole source: each example takes the label at
      its original index.
    - ``.npy`` with as many labels as examples are used: taken in the order of the
      examples used, as in ``noise.npz``. Unless these are the first ones of the source
      in its own order, the clean labels must confirm the order.

    In an ``.npy`` the label -1 leaves an example out of training.

    If the clean labels are known and an ``.npy`` agrees with them no more often than
    chance, it is in another order and is refused.

    Args:
      path: of the file.
      index: ``[N]`` int64, each example's original index.
      num_classes: labels are in ``[0, num_classes)``.
      source_size: the number of examples in the whole source; default: ``N``.
      index_is_original: false if the source records no original order, so that
        ``index`` is a position in storage. Then every ``.npy`` is refused, and an
        ``.npz`` is accepted only if its clean labels are the data's.
      clean_labels: ``[N]`` integers, if known.

    Returns:
      ``[N]`` int32, ``LEFT_OUT`` among them.

    Raises:
      InputError: the file cannot be read, does not fit, or its order is unknown.
    """
    if Path(path).suffix == ".npz":
        return _from_record(path, index, num_classes, index_is_original, clean_labels)
    if not index_is_original:
        raise InputError(
            f"{path} cannot be aligned: the data set does not say which example was "
            "which in the original order; give a noise.npz made from this data set"
        )
    labels = _check_with_left_out(read_array(path), num_classes, str(path))
    used, whole = len(index), source_size or len(index)
    if len(labels) == whole and index.max() < whole:
        labels = labels[index]
    elif len(labels) != used:
        sizes = f"{whole}" if whole == used else f"{whole}, of which {used} are used"
        raise InputError(
            f"{path} holds {len(labels)} labels, and the data set has {sizes}; "
            "expected one label for each example, in the original order"
        )
    elif clean_labels is None and (index != np.arange(used)).any():
        raise InputError(
            f"{path} holds {used} labels for {used} examples out of {whole}, and "
            f"nothing proves their order; give all {whole} in the original order, or "
            "a noise.npz"
        )
    kept = labels != LEFT_OUT
    if not kept.any():
        raise InputError(
            f"{path} leaves out all {used} examples used: expected a class for at "
            "least one; give other labels"
        )
    if clean_labels is not None:
        _check_related(path, labels[kept], clean_labels[kept], num_classes)
    return labels


def _check_with_left_out(labels: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    kept = labels != LEFT_OUT
    # If the last class is absent, the labels are probably classes counted from -1.
    if kept.all() or not (labels == num_classes - 1).any():
        return check_labels(labels, num_classes, what=what)
    check_labels(labels[kept], num_classes, what=what)
    return labels.astype(np.int32)


def _from_record(
    path: str | os.PathLike[str],
    index: np.ndarray,
    num_classes: int,
    index_is_original: bool,
    clean_labels: np.ndarray | None,
) -> np.ndarray:
    record = NoiseRecord.load(path)
    labels = check_labels(record.noisy_labels, num_classes, what=str(path))
    if record.index.shape != labels.shape:
        raise InputError(
            f"{path}: noisy_labels and index differ in length; make it again with "
            "dal-jax noise"
        )
    order = np.argsort(record.index)
    found = np.searchsorted(record.index, index, sorter=order)
    positions = order[np.minimum(found, len(order) - 1)]
    missing = int((record.index[positions] != index).sum())
    if missing:
        raise InputError(
            f"{path} has no label for {missing} of the {len(index)} examples used; it "
            "was made for another data set or another subset; make it again with "
            "dal-jax noise"
        )
    recorded = record.clean_labels
    if recorded is not None and clean_labels is not None:
        wrong = int((recorded[positions] != clean_labels).sum())
        if wrong:
            raise InputError(
                f"{path} was made for other data: its clean labels differ from the "
                f"data set's for {wrong} of {len(index)} examples; make it again with "
                "dal-jax noise"
            )
    elif not index_is_original:
        raise InputError(
            f"{path} cannot be aligned: the data set records no original order, and "
            "there are no clean labels to compare; use images with a recorded order"
        )
    return labels[positions]


def _check_related(
    path: str | os.PathLike[str],
    labels: np.ndarray,
    clean_labels: np.ndarray,
    num_classes: int,
) -> None:
    """Refuses labels that agree with the clean ones only as often as shuffled ones."""
    share, clean_share = (
        np.bincount(each, minlength=num_classes) / len(labels)
        for each in (labels, clean_labels)
    )
    chance = float(share @ clean_share)
    spread = np.sqrt(chance * (1 - chance) / len(labels))
    agreement = float(np.mean(labels == clean_labels))
    if spread > 0 and abs(agreement - chance) < _EVIDENCE * spread:
        raise InputError(
            f"{path} agrees with the clean labels in {agreement:.1%} of the "
            f"examples, as shuffled labels would ({chance:.1%}); put it in the "
            "original order, or give a noise.npz"
        )


def read_transition_matrix(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the transition matrix in an ``.npy`` file or a noise record.

    Args:
      path: of an ``.npy`` holding the matrix, or of an ``.npz`` holding it under the
        name ``transition_matrix``.

    Returns:
      The array as stored.

    Raises:
      InputError: no such file, or no such matrix in it.
    """
    if Path(path).suffix != ".npz":
        return read_array(path)
    arrays = read_npz(path)
    if "transition_matrix" not in arrays:
        raise InputError(
            f"{path} holds no array named transition_matrix; save it under that name, "
            "or alone as an .npy"
        )
    return arrays["transition_matrix"]
