"""The transition matrices of class-conditional noise.

Row ``i`` of a transition matrix ``T`` holds ``P(noisy label = j | label = i)``.
"""

from collections.abc import Callable, Sequence

import numpy as np

from dal_jax.errors import InputError, unknown_name
from dal_jax.noise.checks import check_rate
from dal_jax.noise.class_maps import blocks_of_five, resolve


def check_transition_matrix(
    transition_matrix: Sequence[Sequence[float]] | np.ndarray,
    num_classes: int | None = None,
) -> np.ndarray:
    """Returns a transition matrix as float64 after checking that it is one.

    Args:
      transition_matrix: ``[num_classes, num_classes]``, rows that sum to 1.
      num_classes: the required size; ``None`` accepts any.

    Returns:
      ``[num_classes, num_classes]`` float64, rows divided by their sum.

    Raises:
      InputError: not square, of another size, not probabilities, or a row that does
        not sum to 1 within 1e-6.

    Example:
      >>> check_transition_matrix([[1, 0], [0.5, 0.5]])
      array([[1. , 0. ],
             [0.5, 0.5]])
    """
    matrix = np.asarray(transition_matrix)
    if matrix.dtype.kind not in "iuf":
        raise InputError(
            f"transition matrix: expected numbers, got {matrix.dtype}; convert it"
        )
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(
            f"transition matrix: expected a square matrix, got shape {matrix.shape}; "
            "give a row and a column for each class"
        )
    if num_classes is not None and len(matrix) != num_classes:
        raise InputError(
            f"the transition matrix is for {len(matrix)} classes and the data set has "
            f"{num_classes}; give one for these classes"
        )
    matrix = matrix.astype(np.float64)
    if not (np.isfinite(matrix).all() and (matrix >= 0).all()):
        raise InputError(
            "transition matrix: expected probabilities, 0 to 1, in every entry; fix it"
        )
    sums = matrix.sum(axis=1, keepdims=True)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst, 0] - 1) > 1e-6:
        raise InputError(
            f"transition matrix: row {worst} sums to {sums[worst, 0]:.6g}, expected 1; "
            "row i must hold P(noisy label = j | label = i)"
        )
    return matrix / sums


def symmetric_matrix(num_classes: int, rate: float) -> np.ndarray:
    """Returns the transition matrix of ``symmetric``.

    Args:
      num_classes: at least 2.
      rate: in [0, 1].

    Returns:
      ``[num_classes, num_classes]`` float64, ``(1 - r) I + r / num_classes``.

    Example:
      >>> symmetric_matrix(2, 0.5)
      array([[0.75, 0.25],
             [0.25, 0.75]])
    """
    rate = check_rate(rate)
    return (1 - rate) * np.eye(num_classes) + rate / num_classes


def symmetric_other_matrix(num_classes: int, rate: float) -> np.ndarray:
    """Returns the transition matrix of ``symmetric_other``.

    Args:
      num_classes: at least 2.
      rate: in [0, 1].

    Returns:
      ``[num_classes, num_classes]`` float64: ``1 - r`` on the diagonal and
      ``r / (num_classes - 1)`` elsewhere.

    Example:
      >>> symmetric_other_matrix(3, 0.5)[0].tolist()
      [0.5, 0.25, 0.25]
    """
    rate = check_rate(rate)
    others = 1 - np.eye(num_classes)
    return (1 - rate) * np.eye(num_classes) + rate / (num_classes - 1) * others


def asymmetric_matrix(
    class_map: str | Sequence[int] | np.ndarray,
    rate: float,
    num_classes: int | None = None,
) -> np.ndarray:
    """Returns the transition matrix of ``asymmetric``.

    Args:
      class_map: a name or ``[num_classes]`` integers, see
        :mod:`dal_jax.noise.class_maps`.
      rate: in [0, 1].
      num_classes: of the data set; default: the length of the map.

    Returns:
      ``[num_classes, num_classes]`` float64: ``1 - r`` on the diagonal plus ``r`` at
      each class's target.

    Raises:
      InputError: the class map does not fit.

    Example:
      >>> asymmetric_matrix([0, 0], 0.25).tolist()
      [[1.0, 0.0], [0.25, 0.75]]
    """
    rate = check_rate(rate)
    targets = resolve(class_map, num_classes)
    identity = np.eye(len(targets))
    return (1 - rate) * identity + rate * identity[targets]


def pair_flip_matrix(num_classes: int, rate: float) -> np.ndarray:
    """Returns the transition matrix of ``pair_flip``.

    Args:
      num_classes: at least 2.
      rate: in [0, 1].

    Returns:
      ``[num_classes, num_classes]`` float64: ``1 - r`` on the diagonal and ``r`` at the
      next class, in a ring.

    Example:
      >>> pair_flip_matrix(3, 0.25)[2].tolist()
      [0.25, 0.0, 0.75]
    """
    return asymmetric_matrix((np.arange(num_classes) + 1) % num_classes, rate)


# Kinds that the number of classes and a rate describe; all else finds them here.
_BY_RATE: dict[str, Callable[[int, float], np.ndarray]] = {
    "none": lambda num_classes, rate: np.eye(num_classes),
    "symmetric": symmetric_matrix,
    "symmetric_other": symmetric_other_matrix,
    "asymmetric_blocks": lambda num_classes, rate: asymmetric_matrix(
        blocks_of_five(num_classes), rate
    ),
    "pair_flip": pair_flip_matrix,
}
# "asymmetric" has a class map as well.
CLASS_CONDITIONAL = (*_BY_RATE, "asymmetric")


def matrix_of(
    kind: str,
    num_classes: int,
    rate: float,
    *,
    class_map: str | Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Returns the transition matrix of a class-conditional kind of noise.

    Args:
      kind: ``asymmetric``, or one that a rate alone decides, such as ``symmetric``,
        ``pair_flip`` and ``none``.
      num_classes: at least 2.
      rate: in [0, 1].
      class_map: for kind ``asymmetric``.

    Returns:
      ``[num_classes, num_classes]`` float64, rows ``P(noisy = j | label = i)``.

    Raises:
      InputError: the kind is not one of these, or an argument does not fit it.

    Example:
      >>> matrix_of("pair_flip", 2, 0.25).tolist()
      [[0.75, 0.25], [0.25, 0.75]]
    """
    if kind == "asymmetric":
        return asymmetric_matrix(resolve(class_map, num_classes), rate)
    if kind not in _BY_RATE:
        known = ("asymmetric", *_BY_RATE)
        raise unknown_name("class-conditional noise kind", kind, known)
    return _BY_RATE[kind](num_classes, rate)
