"""Sums over the classes that keep no array of the logits' size in memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# Arrays of fewer numbers stay in a core's cache, so that a loop gains nothing.
_SMALL = 2**15


def sums_in_loop(
    function: Callable[..., jax.Array],
    arrays: tuple[jax.Array, ...],
    shared: tuple[jax.Array, ...],
    each: tuple[jax.Array, ...],
    axis: int,
) -> jax.Array:
    """Sums an elementwise function of arrays over the classes, several times.

    XLA's CPU backend fuses a sum with everything that feeds it (except comparisons and
    selects, which the function should avoid). But if another sum or the gradient shares
    an operation with it, XLA computes that operation once and writes it out, which
    takes longer than computing it again. The loop separates the sums, and the barrier
    keeps loop-invariant code inside the loop. Other backends make one pass over the
    arrays for all sums.

    Args:
      function: elementwise, ``function(*arrays, *shared, *one_of_each)``.
      arrays: ``[..., num_classes]`` each.
      shared: scalars, or arrays with size 1 along ``axis``: one value per row.
      each: like ``shared``, but one for every sum, along a new first axis of size 2 or
        more.
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


@jax.custom_jvp
def below(logits: jax.Array, top: jax.Array) -> jax.Array:
    """The logits minus the largest one, in its dtype, finite even for ``-inf``."""
    shifted = logits.astype(top.dtype) - top
    return jnp.maximum(shifted, jnp.finfo(top.dtype).min)


@below.defjvp
def _below_jvp(primals, tangents):
    # The bound only keeps products with a probability of 0 from being NaN.
    d_logits, d_top = tangents
    return below(*primals), d_logits.astype(d_top.dtype) - d_top


def half_below(logits: jax.Array, top: jax.Array) -> jax.Array:
    """Exactly half of :func:`below`, without sharing an operation or a constant."""
    return jnp.maximum(logits / 2 - top / 2, jnp.finfo(logits.dtype).min / 2)
