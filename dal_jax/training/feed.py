"""How examples reach the compiled step: resident on the device, or streamed.

Images that fit live on the device; a call then hands over nothing but which rows of
the order to run, and a loop inside the compiled program gathers each batch. Images
that do not fit are decoded by the data pipeline and handed over batch by batch.
Either way the same pure function runs on the same batches in the same order.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dal_jax.data import Split, batches
from dal_jax.seeds import numpy_rng
from dal_jax.training.parallel import Pmap, ShardedJit
from dal_jax.training.processes import local_rows

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


def place_images(parallel: ShardedJit | Pmap, split: Split) -> jax.Array | Split:
    """Returns a split's images on the devices, or the split where they must stream."""
    return parallel.place_data(split.images) if split.in_memory else split


def make_runner(
    parallel: ShardedJit | Pmap,
    images: jax.Array | Split,
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
    split: Split,
    arrays: dict[str, np.ndarray],
    function: BatchFunction,
    donate: bool,
    workers: int,
) -> Runner:
    def step(carry, context, batch):
        batch = _with_positions(batch, batch.pop("position"))
        return function(context, carry, parallel.constrain_batch(batch))

    compiled = parallel.compile(step, donate=donate)
    host_order: np.ndarray | None = None
    decoded: Iterator[np.ndarray] = iter(())
    row = 0

    def run(context, carry, order, first, last):
        nonlocal host_order, decoded, row
        share = np.maximum(order[:, local_rows(order.shape[1])], 0)
        if order is not host_order or row != first:
            # Otherwise the stream of the call before is decoding ahead already.
            host_order, row = order, first
            decoded = batches.stream(split, share[first:], workers=workers)
        for row in range(first, last):
            batch = {name: x[share[row]] for name, x in arrays.items()}
            positions = order[row, local_rows(order.shape[1])]
            batch |= {"image": next(decoded), "position": positions}
            carry = compiled(carry, context, parallel.place_batch(batch))
        row = last
        return carry

    return run


def _with_positions(
    batch: dict[str, jax.Array], positions: jax.Array
) -> dict[str, jax.Array]:
    return batch | {"position": jnp.maximum(positions, 0), "mask": positions >= 0}
