"""Batches of a split that does not fit in memory, decoded ahead by Grain."""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from dal_jax.data.images import stack
from dal_jax.data.split import ImageSource, Split
from dal_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """Grain's view: element ``i`` is the whole batch of step ``i``.

    One thread decodes a whole batch, because handing over single images costs more
    than a quarter of the speed at 256 x 256 pixels.
    """

    images: np.ndarray | ImageSource
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step) -> np.ndarray:
        return stack(self.images, self.order[int(step)])


def stream(
    split: Split,
    order: np.ndarray,
    *,
    workers: int = 0,
    threads: int | None = None,
    prefetch: int = 2,
) -> Iterator[np.ndarray]:
    """Yields the images of every step, in the order given, decoded ahead of time.

    The order is all the state there is: to go on after ``n`` steps, pass
    ``order[n:]``.

    Args:
      split: its images in memory or streamed.
      order: ints ``[steps, batch]``, positions in the split.
      workers: processes that decode; 0 decodes in threads of this process, which
        Pillow lets run at once. A program that sets more must be importable without
        side effects (``if __name__ == "__main__"``), as it is started anew in each.
      threads: in each process; default one a core here, or one a worker.
      prefetch: how many batches a thread is ahead at most.

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
    return _stream(_Batches(split.images, order), workers, threads, prefetch)


def _stream(
    batches: _Batches, workers: int, threads: int | None, prefetch: int
) -> Iterator[np.ndarray]:
    try:
        import grain
    except ImportError:
        raise InputError(
            "streaming needs grain: pip install 'dal_jax[data]', or set "
            "dataset.storage=memory"
        ) from None
    threads = threads or (1 if workers else os.cpu_count() or 1)
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads * prefetch
    )
    source = grain.MapDataset.source(batches)  # pyright: ignore[reportArgumentType]
    dataset = source.to_iter_dataset(options)
    if workers:
        _allow_flags()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=prefetch
            )
        )
    yield from dataset


def _allow_flags():
    # Grain's workers read absl flags, which only a program run by absl has parsed.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
