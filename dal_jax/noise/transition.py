"""Noise that depends only on the class, given by a transition matrix.

Row ``i`` of a transition matrix ``T`` holds ``P(noisy label = j | label = i)``. Each
kind of class-conditional noise is one such matrix (:mod:`dal_jax.noise.matrices`),
and :func:`from_transition_matrix` draws every example's label from its row,
independently and once. The number of flips is not rounded, so counts vary from seed to
seed like a binomial's.

A draw depends only on the seed and the example's original index. Shuffling the examples
or taking a subset changes no example's label.
"""

from collections.abc import Sequence

import numpy as np

from dal_jax.noise.checks import check_index, check_labels, check_seed
from dal_jax.noise.matrices import (
    asymmetric_matrix,
    check_transition_matrix,
    pair_flip_matrix,
    symmetric_matrix,
    symmetric_other_matrix,
)
from dal_jax.seeds import numpy_rng


def uniforms(seed: int, name: str, index: np.ndarray) -> np.ndarray:
    """Returns one uniform number in [0, 1) for each original index.

    Args:
      seed: the noise's seed.
      name: names the source of randomness within the noise.
      index: ``[N]`` integers of at least 0.

    Returns:
      ``[N]`` float64; the number of an index does not depend on the other indices.

    Example:
      >>> few, many = (uniforms(0, "flip", np.arange(n)) for n in (3, 5))
      >>> bool((few == many[:3]).all())
      True
    """
    rng = numpy_rng(check_seed(seed), f"noise/{name}")
    return rng.random(int(index.max()) + 1)[index]


def from_transition_matrix(
    labels: np.ndarray,
    transition_matrix: Sequence[Sequence[float]] | np.ndarray,
    seed: int,
    *,
    index: np.ndarray | None = None,
) -> np.ndarray:
    r"""Draws every label from its row of a transition matrix.

    .. math:: P(\tilde y = j \mid y = i) = T_{ij}

    Args:
      labels: ``[N]`` integers in ``[0, num_classes)``.
      transition_matrix: ``[num_classes, num_classes]``; rows sum to 1.
      seed: of the noise, at least 0.
      index: ``[N]``, each example's original index; default: its position.

    Returns:
      ``[N]`` int32 noisy labels.

    Raises:
      InputError: labels out of range, or not a transition matrix.

    Example:
      >>> from_transition_matrix([0, 1, 1], [[0, 1], [0, 1]], seed=0).tolist()
      [1, 1, 1]
    """
    matrix = check_transition_matrix(transition_matrix)
    labels = check_labels(labels, len(matrix))
    draws = uniforms(seed, "transition", check_index(index, len(labels)))
    noisy = np.empty_like(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        cumulative = np.cumsum(matrix[label])
        # Without this, rounding could put a draw beyond the last possible class.
        cumulative /= cumulative[-1]
        noisy[members] = np.searchsorted(cumulative, draws[members], side="right")
    return noisy


def symmetric(
    labels: np.ndarray,
    num_classes: int,
    rate: float,
    seed: int,
    *,
    index: np.ndarray | None = None,
) -> np.ndarray:
    r"""Redraws each label with probability ``rate``, uniformly over ALL classes.

    The same class may be drawn again, so the share of wrong labels is
    ``rate * (1 - 1 / num_classes)``: 36 % at a rate of 40 % and ten classes. The code
    released with Dynamics-Aware Loss does the same.

    Args:
      labels: ``[N]`` integers in ``[0, num_classes)``.
      num_classes: at least 2.
      rate: probability of a redraw, in [0, 1].
      seed: of the noise, at least 0.
      index: ``[N]``, each example's original index; default: its position.

    Returns:
      ``[N]`` int32 noisy labels.

    Raises:
      InputError: labels, rate or seed out of range.

    Example:
      >>> import numpy as np
      >>> noisy = symmetric(np.zeros(10_000, int), 10, rate=0.4, seed=0)
      >>> bool(abs((noisy != 0).mean() - 0.36) < 0.02)
      True
    """
    labels = check_labels(labels, num_classes)
    matrix = symmetric_matrix(num_classes, rate)
    return from_transition_matrix(labels, matrix, seed, index=index)


def symmetric_other(
    labels: np.ndarray,
    num_classes: int,
    rate: float,
    seed: int,
    *,
    index: np.ndarray | None = None,
) -> np.ndarray:
    """Flips each label with probability ``rate``, uniformly over the OTHER classes.

    The share of wrong labels is ``rate`` itself, so the same number means more noise
    than with :func:`symmetric`.

    Args:
      labels: ``[N]`` integers in ``[0, num_classes)``.
      num_classes: at least 2.
      rate: probability of a wrong label, in [0, 1].
      seed: of the noise, at least 0.
      index: ``[N]``, each example's original index; default: its position.

    Returns:
      ``[N]`` int32 noisy labels.

    Raises:
      InputError: labels, rate or seed out of range.

    Example:
      >>> symmetric_other([0, 1, 0], num_classes=2, rate=1.0, seed=0).tolist()
      [1, 0, 1]
    """
    labels = check_labels(labels, num_classes)
    matrix = symmetric_other_matrix(num_classes, rate)
    return from_transition_matrix(labels, matrix, seed, index=index)


def asymmetric(
    labels: np.ndarray,
    class_map: str | Sequence[int] | np.ndarray,
    rate: float,
    seed: int,
    *,
    num_classes: int | None = None,
    index: np.ndarray | None = None,
) -> np.ndarray:
    """Flips each label with probability ``rate`` to the class it is mistaken for.

    Each example is decided once from its given label, so in a pair such as cat <-> dog
    no label is flipped there and back.

    Args:
      labels: ``[N]`` integers in ``[0, num_classes)``.
      class_map: ``digits``, ``cifar10``, ``cifar100``, or the target of each class.
      rate: probability of a flip, in [0, 1]; classes that map to themselves keep
        their labels, so fewer labels than that become wrong.
      seed: of the noise, at least 0.
      num_classes: of the data set; default: the length of the map.
      index: ``[N]``, each example's original index; default: its position.

    Returns:
      ``[N]`` int32 noisy labels.

    Raises:
      InputError: labels, map, rate or seed out of range.

    Example:
      >>> asymmetric([5, 6, 7, 1], "digits", rate=1.0, seed=0).tolist()
      [6, 5, 1, 1]
    """
    matrix = asymmetric_matrix(class_map, rate, num_classes)
    return from_transition_matrix(labels, matrix, seed, index=index)


def pair_flip(
    labels: np.ndarray,
    num_classes: int,
    rate: float,
    seed: int,
    *,
    index: np.ndarray | None = None,
) -> np.ndarray:
    """Flips each label with probability ``rate`` to the next class, in a ring.

    Args:
      labels: ``[N]`` integers in ``[0, num_classes)``.
      num_classes: at least 2.
      rate: probability of a wrong label, in [0, 1].
      seed: of the noise, at least 0.
      index: ``[N]``, each example's original index; default: its position.

    Returns:
      ``[N]`` int32 noisy labels.

    Raises:
      InputError: labels, rate or seed out of range.

    Reference:
      The pair flipping of Han et al., Co-teaching, 2018 (arXiv 1804.06872).

    Example:
      >>> pair_flip([0, 1, 2], num_classes=3, rate=1.0, seed=0).tolist()
      [1, 2, 0]
    """
    labels = check_labels(labels, num_classes)
    matrix = pair_flip_matrix(num_classes, rate)
    return from_transition_matrix(labels, matrix, seed, index=index)
