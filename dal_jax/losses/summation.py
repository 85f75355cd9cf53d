"""Sums over the classes that keep no array of the logits' size in memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Arrays of fewer numbers stay in a core's cache, so that a loop gains nothing.
_SMALL = 2**15


def sums_over_classes(
    function: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    shared: tuple[jax.Array, ...],
    each: tuple[jax.Array, ...],
    axis: int,
) -> jax.Array:
    """Sums an elementwise function of arrays over the classes, several times.

    XLA's CPU backend fuses a sum with all that feeds it (but comparisons and selects,
    which the function should do without), unless another sum or the gradient has an
    operation in common with it: that it computes once and writes out, which takes
    longer than to compute it again. A loop keeps each sum by itself, and the barrier
    keeps in the loop what does not change in it. Other backends make one pass over the
    arrays for all sums.

    Args:
      function: elementwise, ``function(*arrays, *shared, *one_of_each)``.
      arrays: ``[..., num_classes]`` each.
      shared: what the classes of a row share, of size 1 along ``axis``, or scalars.
      each: the same for every sum, along a new first axis of at least two.
      axis: the class axis, counted from the front.

    Returns:
      The sums, ``[number, ..., 1]``.
    """

    def total(*arguments):
        return jnp.sum(function(*arguments), axis, keepdims=True)

    def in_a_loop(arrays, shared, each):
        def add_up(_, own):
            return None, total(*jax.lax.optimization_barrier((*arrays, *shared, *own)))

        return jax.lax.scan(add_up, None, each)[1]

    def at_once(arrays, shared, each):
        rows = zip(*each, strict=True)
        return jnp.stack([total(*arrays, *shared, *own) for own in rows])

    if arrays[0].size < _SMALL:
        return at_once(arrays, shared, each)
    return jax.lax.platform_dependent(
        arrays, shared, each, cpu=in_a_loop, default=at_once
    )


def below(logits: jax.Array, top: jax.Array) -> jax.Array:
    """How far the logits are below the largest, finite even for ``-inf``."""
    return jnp.maximum(logits - top, jnp.finfo(logits.dtype).min)


def half_below(logits: jax.Array, top: jax.Array) -> jax.Array:
    """Half of :func:`below`, exactly, with no operation or constant in common."""
    return jnp.maximum(logits / 2 - top / 2, jnp.finfo(logits.dtype).min / 2)
