"""Batches of a split that does not fit in memory, read ahead by Grain."""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from dal_jax.data.decode import OtherSize, decode_rows
from dal_jax.data.images import EncodedImages, stack
from dal_jax.data.split import InputSource, Split
from dal_jax.errors import InputError

# How many batches a thread may be ahead.
_AHEAD = 2


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """Grain's view: element ``i`` is the whole batch of step ``i``.

    One thread reads a whole batch, because handing over single images would cost more
    than a quarter of the speed at 256 x 256 pixels.
    """

    inputs: np.ndarray | InputSource
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step) -> np.ndarray:
        return stack(self.inputs, self.order[int(step)])


def stream(
    split: Split, order: np.ndarray, *, workers: int | None = None
) -> Iterator[np.ndarray]:
    """Yields the inputs of every step, in the order given, read ahead of time.

    The order is the only state: to continue after ``n`` steps, pass ``order[n:]``.

    Args:
      split: its inputs in memory or streamed.
      order: ints ``[steps, batch]``, positions in the split.
      workers: threads that read and decode; default one per core. With 0 a batch is
        read when it is needed.

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
    return _read_ahead(_Batches(split.inputs, order), workers)


@dataclasses.dataclass(frozen=True, eq=False)
class _Readable:
    """Grain's view of images that may fail to decode, a whole batch an element."""

    images: EncodedImages
    shape: tuple[int, ...]
    batch_size: int
    positions: np.ndarray

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __getitem__(self, step) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        first = int(step) * self.batch_size
        positions = self.positions[first : first + self.batch_size]
        out = np.empty((len(positions), *self.shape), np.uint8)
        encoded = self.images.read(positions)
        channels, size = self.images.channels, self.images.image_size
        failures = {
            row: self._reason(error)
            for row, error in decode_rows(out, encoded, channels, size)
        }
        good = [row for row in range(len(positions)) if row not in failures]
        unreadable = {int(positions[row]): why for row, why in failures.items()}
        return positions[good], out[good] if failures else out, unreadable

    def _reason(self, error: Exception) -> str:
        height, width, _ = self.shape
        expected = f" pixels, expected {width} x {height}"
        return f"{error}{expected * isinstance(error, OtherSize)}"


def readable(
    images: EncodedImages,
    shape: tuple[int, ...],
    batch_size: int,
    *,
    positions: np.ndarray | None = None,
    workers: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
    """Yields images in their order, read ahead of time, and says which do not decode.

    Args:
      images: images that may or may not decode.
      shape: ``(H, W, C)`` that each must have once it is decoded.
      batch_size: images that are read together.
      positions: those to read, in this order; None for all.
      workers: see :func:`stream`.

    Yields:
      Of each batch the positions ``[B]`` that decode to the shape, their pixels uint8
      ``[B, H, W, C]``, and the others' positions with what is wrong with them.
    """
    positions = np.arange(len(images)) if positions is None else positions
    source = _Readable(images, tuple(shape), batch_size, positions)
    return _read_ahead(source, workers)


def _read_ahead(source: Any, workers: int | None) -> Iterator[Any]:
    grain = import_grain()
    threads = cores() if workers is None else workers
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=_AHEAD * threads
    )
    yield from grain.MapDataset.source(source).to_iter_dataset(options)


def import_grain() -> Any:
    """Returns Grain, which takes its time to import.

    Whoever will stream calls this before anything is decoded or written.

    Raises:
      InputError: it is not installed.
    """
    try:
        import grain
    except ImportError as error:
        raise InputError(
            "reading inputs ahead needs grain, which is not installed: expected what "
            "dal_jax depends on; install it with pip install grain"
        ) from error
    return grain


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
