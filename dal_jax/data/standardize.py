"""Inputs that are no images: standardised by training statistics, or left as they are.

The counterpart of :mod:`dal_jax.data.augment`, inside the compiled step as well.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.data.augment import Preprocess
from dal_jax.data.blocks import blocks
from dal_jax.data.split import InputSource


def feature_statistics(
    inputs: np.ndarray | InputSource,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each feature, the inputs' last axis.

    Computed in float64, a block of rows at a time (Chan, Golub and LeVeque, 1979).

    Args:
      inputs: numbers ``[N, ..., D]``.

    Returns:
      ``(mean, std)``, ``D`` numbers each; the deviation of a constant feature is given
      as 1.

    Example:
      >>> feature_statistics(np.array([[1.0, 5.0], [3.0, 5.0]]))
      ((2.0, 5.0), (1.0, 1.0))
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for _, rows in blocks(inputs):
        rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        of_block = rows.mean(axis=0)
        difference, both = of_block - mean, count + len(rows)
        squares = squares + np.square(rows - of_block).sum(axis=0)
        squares = squares + difference**2 * (count * len(rows) / both)
        mean = mean + difference * (len(rows) / both)
        count = both
    std = np.sqrt(squares / count)
    # What rounding leaves of a constant is no spread.
    constant = std <= 1e-7 * np.abs(mean)
    return tuple(mean.tolist()), tuple(np.where(constant, 1.0, std).tolist())


def make_standardize(
    mean: Sequence[float], std: Sequence[float], dtype: Any = jnp.float32
) -> Preprocess:
    """Returns what a network is given of inputs that are no images.

    Args:
      mean: of each feature, or a single one for all; empty leaves the inputs alone.
      std: as ``mean``, positive.
      dtype: of the result; it is computed in float32.

    Returns:
      ``(inputs - mean) / std`` in training and evaluation.

    Example:
      >>> preprocess = make_standardize((2.0, 5.0), (1.0, 2.0))
      >>> preprocess.evaluate(jnp.array([[3, 9]])).tolist()
      [[1.0, 2.0]]
    """
    if not mean:
        return Preprocess(lambda keys, x: x, lambda x: x, {"mean": [], "std": []})
    offset, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def evaluate(inputs: jax.Array) -> jax.Array:
        return ((inputs.astype(jnp.float32) - offset) / scale).astype(dtype)

    described = {"mean": list(mean), "std": list(std)}
    return Preprocess(lambda keys, x: evaluate(x), evaluate, described)
