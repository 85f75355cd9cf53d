"""Checks that all kinds of noise share; each error is one line."""

from typing import Any

import numpy as np

from dal_jax.errors import InputError


def check_labels(labels: Any, num_classes: int, what: str = "labels") -> np.ndarray:
    """Returns the labels as int32 ``[N]`` after checking dtype, rank and range.

    Args:
      labels: anything that numpy reads as an array.
      num_classes: labels are in ``[0, num_classes)``.
      what: what an error calls them.

    Returns:
      A new int32 array.

    Raises:
      InputError: not integers, not one-dimensional, empty, or out of range.

    Example:
      >>> check_labels([0, 1, 4], 5).dtype
      dtype('int32')
    """
    if num_classes < 2:
        raise InputError(
            f"noise: expected at least 2 classes, got {num_classes}; check the labels"
        )
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise InputError(
            f"{what}: expected integers, got dtype {labels.dtype}; convert them"
        )
    if labels.ndim != 1 or not labels.size:
        raise InputError(
            f"{what}: expected one label for each example, got shape {labels.shape}; "
            "give a list of class indices"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"{what}: values from {labels.min()} to {labels.max()}, and the "
            f"{num_classes} classes are 0 to {num_classes - 1}; fix them, or give the "
            "labels of this data set"
        )
    return labels.astype(np.int32)


def check_index(index: Any, num_examples: int) -> np.ndarray:
    """Returns the original index of each example, int64 ``[N]``; default: 0, 1, ...

    Args:
      index: integers of at least 0, all different, or ``None`` for the positions.
      num_examples: how many there must be.

    Returns:
      An int64 array.

    Raises:
      InputError: of another length or dtype, negative, or repeated.

    Example:
      >>> check_index(None, 3)
      array([0, 1, 2])
    """
    if index is None:
        return np.arange(num_examples)
    index = np.asarray(index)
    if index.dtype.kind not in "iu" or index.shape != (num_examples,):
        raise InputError(
            f"index: expected {num_examples} integers, got shape {index.shape} and "
            f"dtype {index.dtype}; give each example's index in its source"
        )
    if index.min() < 0 or len(np.unique(index)) != num_examples:
        raise InputError(
            "index: expected original indices of 0 or more, each one once; give each "
            "example's index in its source"
        )
    return index.astype(np.int64)


def check_rate(rate: float) -> float:
    """Returns the rate as a float after checking that it is a probability.

    Args:
      rate: in [0, 1].

    Returns:
      The same number.

    Raises:
      InputError: outside [0, 1], or not a number.

    Example:
      >>> check_rate(1)
      1.0
    """
    if isinstance(rate, str | bool) or not 0 <= rate <= 1:
        raise InputError(f"noise rate {rate!r} is outside [0, 1]; write 40 % as 0.4")
    return float(rate)


def check_seed(seed: int) -> int:
    """Returns the seed after checking that it is an integer of at least 0.

    Args:
      seed: the noise's own seed.

    Returns:
      The same number.

    Raises:
      InputError: negative, or not an integer.

    Example:
      >>> check_seed(7)
      7
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(
            f"noise seed: expected an integer of at least 0, got {seed!r}; give another"
        )
    return int(seed)
