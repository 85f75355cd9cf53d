"""The compiled programs that a feed calls: rows of an order, or one streamed batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from dal_jax.training.parallel import Pmap, ShardedJit

PyTree = Any
# (context, carry, batch) -> carry
BatchFunction = Callable[[PyTree, PyTree, dict[str, jax.Array]], PyTree]


def rows_program(
    parallel: ShardedJit | Pmap,
    function: BatchFunction,
    length: int | None,
    input_shape: tuple[int, ...],
    *,
    donate: bool = False,
) -> Callable[..., PyTree]:
    """Returns the program that runs rows of an order over resident examples.

    Args:
      parallel: the devices.
      function: see :data:`BatchFunction`.
      length: how many rows, or ``None`` for as many as a call asks for.
      input_shape: of one example; resident inputs are flat, ``[N, size]``.
      donate: whether the carry's buffers may be reused.

    Returns:
      ``(carry, context, resident, order, first) -> carry``, without a length
      ``(..., first, last)``.
    """

    def one(carry, context, resident, positions):
        batch = {name: x[jnp.maximum(positions, 0)] for name, x in resident.items()}
        batch["inputs"] = batch["inputs"].reshape(-1, *input_shape)
        batch = parallel.constrain_batch(_with_positions(batch, positions))
        return function(context, carry, batch)

    def any_rows(carry, context, resident, order, first, last):
        def body(row, carry):
            positions = lax.dynamic_index_in_dim(order, row, keepdims=False)
            return one(carry, context, resident, positions)

        # The bounds are traced: one program serves any number of steps.
        return lax.fori_loop(first, last, body, carry)

    if length is None:
        return parallel.compile(any_rows, scalars=2, donate=donate)

    def some_rows(carry, context, resident, order, first):
        def body(carry, positions):
            return one(carry, context, resident, positions), None

        assert length is not None
        positions = lax.dynamic_slice_in_dim(order, first, length)
        return lax.scan(body, carry, positions)[0]

    return parallel.compile(some_rows, scalars=1, donate=donate)


def batch_program(
    parallel: ShardedJit | Pmap, function: BatchFunction, *, donate: bool = False
) -> Callable[..., PyTree]:
    """Returns the program of one streamed batch, ``(carry, context, batch) -> carry``.

    Arguments as of :func:`rows_program`; a batch comes without its ``mask``.
    """

    def step(carry, context, batch):
        batch = dict(batch)
        batch = _with_positions(batch, batch.pop("position"))
        return function(context, carry, parallel.constrain_batch(batch))

    return parallel.compile(step, donate=donate)


def _with_positions(
    batch: dict[str, jax.Array], positions: jax.Array
) -> dict[str, jax.Array]:
    return batch | {"position": jnp.maximum(positions, 0), "mask": positions >= 0}
