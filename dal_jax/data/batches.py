"""Batches of a split that does not fit in memory, read ahead by Grain."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from dal_jax.data.images import stack
from dal_jax.data.split import InputSource, Split
from dal_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """Grain's view: element ``i`` is the whole batch of step ``i``.

    One thread reads a whole batch, because handing over single images costs more than
    a quarter of the speed at 256 x 256 pixels.
    """

    inputs: np.ndarray | InputSource
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step) -> np.ndarray:
        return stack(self.inputs, self.order[int(step)])


def stream(
    split: Split, order: np.ndarray, *, workers: int | None = None, prefetch: int = 2
) -> Iterator[np.ndarray]:
    """Yields the inputs of every step, in the order given, read ahead of time.

    The order is all the state there is: to go on after ``n`` steps, pass
    ``order[n:]``.

    Args:
      split: its inputs in memory or streamed.
      order: ints ``[steps, batch]``, positions in the split.
      workers: threads that read and decode; default one a core. With 0 a batch is read
        when it is asked for.
      prefetch: how many batches a thread is ahead at most.

    Yields:
      ``[batch, ...]``, of images uint8 ``[batch, H, W, C]``.

    Raises:
      InputError: if the order does not fit the split, or if an image has stopped
        decoding since the data was loaded.

    Example:
      >>> features = np.arange(6.0).reshape(6, 1)
      >>> split = Split(features, np.zeros(6, np.int32))
      >>> order = np.array([[5, 0], [1, 4], [2, 3]])
      >>> [batch.ravel().tolist() for batch in stream(split, order[1:])]
      [[1.0, 4.0], [2.0, 3.0]]
    """
    order = np.asarray(order)
    if order.ndim != 2 or order.dtype.kind not in "iu":
        raise InputError(
            f"order is {order.dtype} {list(order.shape)}, expected integers "
            "[steps, batch]"
        )
    if order.size and not 0 <= order.min() <= order.max() < len(split):
        raise InputError(
            f"order has positions {order.min()} to {order.max()}, expected 0 to "
            f"{len(split) - 1}: it belongs to another split"
        )
    return _stream(split, order, cores() if workers is None else workers, prefetch)


def _stream(
    split: Split, order: np.ndarray, threads: int, prefetch: int
) -> Iterator[np.ndarray]:
    import grain

    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads * prefetch
    )
    source: Any = _Batches(split.inputs, order)
    yield from grain.MapDataset.source(source).to_iter_dataset(options)


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
