"""How examples reach the compiled step: resident on the device, or streamed.

Images that fit live on the device; a call then hands over nothing but which rows of
the order to run, and a loop inside the compiled program gathers each batch. Images
that do not fit are decoded by the data pipeline and handed over batch by batch.
Either way the same pure function runs on the same batches in the same order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dal_jax import data
from dal_jax.seeds import numpy_rng
from dal_jax.training.parallel import Pmap, ShardedJit, local_rows

PyTree = Any
# (context, carry, batch) -> carry
BatchFunction = Callable[[PyTree, PyTree, dict[str, jax.Array]], PyTree]
# (context, carry, order, first, last) -> carry, over the order's rows [first, last)
Runner = Callable[[PyTree, PyTree, np.ndarray, int, int], PyTree]


def epoch_order(seed: int, epoch: int, num_examples: int, batch: int) -> np.ndarray:
    """Returns the positions of an epoch's batches: int32 ``[steps, batch]``.

    Every example comes once; the last batch is filled up with the epoch's first ones,
    so that all batches are of one size and the number of steps is rounded up.
    """
    order = numpy_rng(seed, f"data order of epoch {epoch}").permutation(num_examples)
    steps = -(-num_examples // batch)
    return np.resize(order, (steps, batch)).astype(np.int32)


def sequential_order(num_examples: int, batch: int) -> np.ndarray:
    """Returns all positions in order, the last batch padded with -1."""
    steps = -(-num_examples // batch)
    order = np.full(steps * batch, -1, np.int32)
    order[:num_examples] = np.arange(num_examples)
    return order.reshape(steps, batch)


def place_images(
    parallel: ShardedJit | Pmap, images: np.ndarray | data.ImageSource
) -> jax.Array | data.ImageSource:
    """Returns images in memory on the devices, or the source that decodes them."""
    return parallel.place_data(images) if isinstance(images, np.ndarray) else images


def make_runner(
    parallel: ShardedJit | Pmap,
    images: jax.Array | data.ImageSource,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    *,
    donate: bool = False,
    workers: int = 0,
) -> Runner:
    """Returns what runs a batch function over rows of an order.

    Args:
      parallel: the devices.
      images: what :func:`place_images` returned.
      arrays: further arrays ``[N]``, e.g. ``label``.
      function: pure, ``(context, carry, batch) -> carry``; a batch has ``image``, the
        arrays' names, ``position`` and ``mask`` (false where the order is -1).
      donate: whether the carry's buffers may be reused.
      workers: decoding processes of a stream.
    """
    if isinstance(images, jax.Array):
        return _resident(parallel, images, arrays, function, donate)
    return _streamed(parallel, images, arrays, function, donate, workers)


def _resident(
    parallel: ShardedJit | Pmap,
    images: jax.Array,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    donate: bool,
) -> Runner:
    resident = {"image": images, **parallel.place_data(arrays)}

    def rows(carry, context, resident, order, first, last):
        def body(row, carry):
            positions = lax.dynamic_index_in_dim(order, row, keepdims=False)
            batch = {name: x[jnp.maximum(positions, 0)] for name, x in resident.items()}
            batch = parallel.constrain_batch(_with_positions(batch, positions))
            return function(context, carry, batch)

        # The bounds are traced: one program serves any number of steps.
        return lax.fori_loop(first, last, body, carry)

    compiled = parallel.compile(rows, scalars=2, donate=donate)
    host_order: np.ndarray | None = None
    device_order: jax.Array | None = None

    def run(context, carry, order, first, last):
        nonlocal host_order, device_order
        if order is not host_order:
            host_order, device_order = order, parallel.place_order(order)
        return compiled(carry, context, resident, device_order, first, last)

    return run


def _streamed(
    parallel: ShardedJit | Pmap,
    images: data.ImageSource,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    donate: bool,
    workers: int,
) -> Runner:
    def step(carry, context, batch):
        batch = _with_positions(batch, batch.pop("position"))
        return function(context, carry, parallel.constrain_batch(batch))

    compiled = parallel.compile(step, donate=donate)

    def run(context, carry, order, first, last):
        share = order[first:last, local_rows(order.shape[1])]
        stream = data.stream(images, np.maximum(share, 0), workers=workers)
        for positions, decoded in zip(share, stream, strict=True):
            batch = {name: x[np.maximum(positions, 0)] for name, x in arrays.items()}
            batch |= {"image": decoded, "position": positions}
            carry = compiled(carry, context, parallel.place_batch(batch))
        return carry

    return run


def _with_positions(
    batch: dict[str, jax.Array], positions: jax.Array
) -> dict[str, jax.Array]:
    return batch | {"position": jnp.maximum(positions, 0), "mask": positions >= 0}
