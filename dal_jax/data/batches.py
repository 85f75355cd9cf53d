"""Batches of a split that does not fit in memory, decoded ahead by Grain."""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from dal_jax.data import workers as processes
from dal_jax.data.decode import decode_batch
from dal_jax.data.images import ArrayImages, DecodeBatch, EncodedImages, stack
from dal_jax.data.split import InputSource, Split, Subset
from dal_jax.errors import InputError

# In the third of a second that workers take to start, threads decode about as many.
_IMAGES_WORTH_WORKERS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """Grain's view: element ``i`` is the whole batch of step ``i``.

    One thread decodes a whole batch or has it decoded, because handing over single
    images costs more than a quarter of the speed at 256 x 256 pixels.
    """

    images: np.ndarray | InputSource
    order: np.ndarray
    decode_batch: DecodeBatch

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step) -> np.ndarray:
        return stack(self.images, self.order[int(step)], self.decode_batch)


def stream(
    split: Split,
    order: np.ndarray,
    *,
    workers: int | None = None,
    threads: int | None = None,
    prefetch: int = 2,
) -> Iterator[np.ndarray]:
    """Yields the images of every step, in the order given, decoded ahead of time.

    The order is all the state there is: to go on after ``n`` steps, pass
    ``order[n:]``.

    Args:
      split: its images in memory or streamed.
      order: ints ``[steps, batch]``, positions in the split.
      workers: processes that decode files, see :mod:`dal_jax.data.workers`; 0 decodes
        in threads of this process. By default one a core, where there are several and
        the order has a thousand images. Arrays need no decoding and never get any.
      threads: in this process, where there are no workers; default one a core.
      prefetch: how many batches a worker or thread is ahead at most.

    Yields:
      uint8 ``[batch, H, W, C]``.

    Raises:
      InputError: if the order does not fit the split, if Grain is not installed, or
        if an image has stopped decoding since the data was loaded.

    Example:
      >>> images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
      >>> split = Split(images, np.zeros(6, np.int32), np.arange(6), None)
      >>> order = np.array([[5, 0], [1, 4], [2, 3]])
      >>> [batch.ravel().tolist() for batch in stream(split, order[1:], threads=1)]
      [[1, 4], [2, 3]]
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
    images = split.inputs.source if isinstance(split.inputs, Subset) else split.inputs
    encoded = isinstance(images, EncodedImages) and not isinstance(images, ArrayImages)
    if workers is None:
        pays = _cores() > 1 and order.size >= _IMAGES_WORTH_WORKERS
        workers = _cores() if pays and processes.supported() else 0
    if workers and encoded:
        decode = processes.pool(workers).decode_batch
        return _stream(_Batches(split.inputs, order, decode), workers, prefetch)
    batches = _Batches(split.inputs, order, decode_batch)
    return _stream(batches, threads or _cores(), prefetch)


def _stream(batches: _Batches, threads: int, prefetch: int) -> Iterator[np.ndarray]:
    try:
        import grain
    except ImportError:
        raise InputError(
            "streaming needs grain: pip install 'dal_jax[data]', or set "
            "dataset.storage=memory"
        ) from None
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads * prefetch
    )
    source = grain.MapDataset.source(batches)  # pyright: ignore[reportArgumentType]
    yield from source.to_iter_dataset(options)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
