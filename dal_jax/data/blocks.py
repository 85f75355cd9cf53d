"""The rows of large inputs, a block at a time."""

import math
import mmap
from collections.abc import Iterator

import numpy as np

from dal_jax.data.split import InputSource, Subset, shape_of_one
from dal_jax.errors import InputError

BLOCK_BYTES = 2**24


def blocks(inputs: np.ndarray | InputSource) -> Iterator[tuple[int, np.ndarray]]:
    """Yields ``(first row, rows)`` of some inputs, in their order.

    A memory-mapped file takes no more memory than a block.

    Args:
      inputs: an array ``[N, ...]``, a source, or some rows of either.

    Example:
      >>> some = Subset(np.arange(6.0).reshape(3, 2), np.array([2, 0]))
      >>> [(first, rows.tolist()) for first, rows in blocks(some)]
      [(0, [[4.0, 5.0], [0.0, 1.0]])]
    """
    size = math.prod(shape_of_one(inputs)) * inputs.dtype.itemsize
    at_once = max(1, BLOCK_BYTES // max(size, 1))
    source, positions = inputs, None
    if isinstance(inputs, Subset):
        source, positions = inputs.source, inputs.positions
    for first in range(0, len(inputs), at_once):
        rows = slice(first, min(first + at_once, len(inputs)))
        if isinstance(source, np.ndarray):
            yield (
                first,
                np.asarray(source[rows if positions is None else positions[rows]]),
            )
            release(source)
        else:
            yield first, np.stack([inputs[i] for i in range(rows.start, rows.stop)])


def release(array: np.ndarray | InputSource) -> None:
    """Lets go of what was read of a file that is mapped to be read.

    It stays in the system's cache of files, which is not the process's memory.
    """
    mapped = None
    while isinstance(array, np.ndarray):
        mapped = array if isinstance(array, np.memmap) else mapped
        array = array.base  # pyright: ignore[reportAssignmentType]
    # Of a private copy, what was written to it would be lost.
    if isinstance(array, mmap.mmap) and mapped is not None and mapped.mode == "r":
        array.madvise(mmap.MADV_DONTNEED)


def has_blocks(inputs: np.ndarray | InputSource) -> bool:
    """Whether inputs are an array, or rows of one, and not made on access."""
    source = inputs.source if isinstance(inputs, Subset) else inputs
    return isinstance(source, np.ndarray)


def check_numbers(inputs: np.ndarray, what: str) -> None:
    """Raises InputError for inputs that no network can be given.

    Args:
      inputs: ``[N, ...]``.
      what: what the message calls them.
    """
    dtype = inputs.dtype
    fits = dtype.kind in "fiub" and dtype.itemsize <= 8 and dtype.isnative
    if inputs.ndim < 2 or not fits or inputs.size == 0:
        raise InputError(
            f"{what} are {dtype} {list(inputs.shape)}, expected numbers [N, ...], one "
            "row an example and one example at least; convert them"
        )


def check_finite(inputs: np.ndarray | InputSource, what: str) -> None:
    """Raises InputError where a row holds NaN, infinity or what float32 cannot hold.

    Args:
      inputs: ``[N, ...]`` numbers; integers are finite.
      what: what the message calls them.

    Example:
      >>> check_finite(np.array([[0.0], [np.nan]]), "inputs")
      Traceback (most recent call last):
      dal_jax.errors.InputError: inputs: 1 of 2 rows hold NaN or infinity (rows 1):
      expected finite numbers; fill them in or remove the rows
    """
    if inputs.dtype.kind != "f":
        return
    wrong: list[int] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for first, rows in blocks(inputs):
            # A finite sum has finite terms, and takes a tenth of the time.
            if not np.isfinite(rows.sum(dtype=np.float32)):
                finite = np.isfinite(rows.astype(np.float32, copy=False))
                finite = finite.reshape(len(rows), -1).all(axis=1)
                wrong += (first + np.flatnonzero(~finite)).tolist()
    if wrong:
        raise InputError(
            f"{what}: {len(wrong)} of {len(inputs)} rows hold NaN or infinity (rows "
            f"{few(wrong)}): expected finite numbers; fill them in or remove the rows"
        )


def few(rows: list[int]) -> str:
    """Returns the first of some row numbers as text."""
    return ", ".join(map(str, rows[:3])) + ", ..." * (len(rows) > 3)
