"""Sums over the classes that keep no array of the logits' size in memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Few, since each is a copy of the function in the compiled program.
_BLOCKS = 8
_LEAST = 512


def sum_over_classes(
    function: Callable[..., jax.Array],
    logits: jax.Array,
    rows: tuple[jax.Array, ...],
    axis: int,
) -> jax.Array:
    """Sums an elementwise function of the logits over the classes.

    Args:
      function: elementwise, ``function(logits, *rows)``.
      logits: ``[..., num_classes]``.
      rows: what the classes of a row share, of size 1 along ``axis``; one or more.
      axis: the class axis, counted from the front.

    Returns:
      The sums, of size 1 along ``axis``.
    """

    def plain(logits, *rows):
        return jnp.sum(function(logits, *rows), axis, keepdims=True)

    def folded(logits, *rows):
        # XLA's CPU backend hands sums to a library that takes additions and products
        # along, and writes out what else feeds them. A select, of what is always true
        # unless the row is NaN, ends what it takes, so that the rest stays fused.
        pieces = jnp.split(logits, _BLOCKS, axis)
        total = sum(function(piece, *rows) for piece in pieces)
        whole = rows[0] == rows[0]
        total = jnp.where(whole, total, jnp.nan)
        return jnp.where(whole, jnp.sum(total, axis, keepdims=True), jnp.nan)

    num_classes = logits.shape[axis]
    if num_classes < _LEAST or num_classes % _BLOCKS:
        return plain(logits, *rows)
    return jax.lax.platform_dependent(logits, *rows, cpu=folded, default=plain)


def share_of_top(logits: jax.Array, top: jax.Array, axis: int) -> jax.Array:
    """The derivative of the largest logit ``top``, which equal ones share."""

    def is_top(logits, top):
        return jnp.where(logits == top, 1, jnp.zeros_like(logits))

    count = sum_over_classes(is_top, logits, (top,), axis)
    return jnp.where(logits == top, 1 / count, 0)
