r"""What a loss needs from a row of logits: its label's log-probability and its entropy.

With :math:`m` the row's largest logit,

.. math::
  S = \sum_k e^{z_k - m}, \qquad T = \sum_k (z_k - m) \, e^{z_k - m}, \qquad
  \log p_y = z_y - m - \log S, \qquad H = \log S - T / S.

On GPU and TPU all four numbers come from one pass over the logits: one reduction of
several numbers that rescales :math:`S` and :math:`T` whenever the maximum changes. This
is the online softmax of Milakov and Gimelshein (2018), arXiv:1805.02867, with its first
moment. On a GPU its exponentials are what takes the time, so there it reduces columns
of a few classes, whose sums take one exponential a class. On the CPU it would be slow;
there one pass finds the maximum and others compute the sums.

The derivative

.. math::
  \frac{\partial \log p_y}{\partial z_k} = [k = y] - p_k, \qquad
  \frac{\partial H}{\partial z_k} = -p_k \Big( z_k - m - \frac T S \Big)

is computed from the logits and the row's numbers when the cotangents are known. So
value and gradient read the logits twice, write the gradient, and keep no other array of
that size.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.losses import log_space


class Sums(NamedTuple):
    """The numbers of each row, ``[...]``; no moment if no entropy is wanted."""

    top: jax.Array
    label: jax.Array
    total: jax.Array
    moment: jax.Array | None


@log_space.custom_jvp(0, 1)
def label_and_entropy(
    axis: int, with_entropy: bool, logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """The log-probability of each row's label, and the entropy of its prediction.

    Args:
      axis: the class axis, counted from the front.
      with_entropy: whether to compute the entropy; if not, it is ``None``.
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]``; one outside ``[0, num_classes)`` gives NaN.

    Returns:
      Both ``[...]``, in float32 (float64 for float64 logits).
    """
    return _finish(row_sums(axis, with_entropy, logits, labels))


@label_and_entropy.defjvp
def _label_and_entropy_jvp(axis, with_entropy, primals, tangents):
    logits, labels = primals
    sums = row_sums(axis, with_entropy, logits, labels)
    # Without a checkpoint the exponentials would be kept for the backward pass.
    linear = jax.checkpoint(functools.partial(_tangents, axis), prevent_cse=False)
    return _finish(sums), linear(logits, labels, sums, tangents[0])


def _finish(sums: Sums) -> tuple[jax.Array, jax.Array | None]:
    log_total = jnp.log(sums.total)
    log_p = sums.label - sums.top - log_total
    if sums.moment is None:
        return log_p, None
    return log_p, log_total - sums.moment / sums.total


def _tangents(axis, logits, labels, sums, d_logits):
    """Linear in ``d_logits``; transposed, it is the gradient."""
    widen = functools.partial(jnp.expand_dims, axis=axis)
    labelled = log_space.one_hot(labels, logits.shape, axis)
    d_logits = d_logits.astype(sums.total.dtype)
    shifted = logits.astype(sums.total.dtype) - widen(sums.top)
    exps = jnp.exp(shifted)
    d_label = jnp.sum(jnp.where(labelled, d_logits, 0), axis)
    d_log_total = jnp.sum(exps * d_logits, axis) / sums.total
    d_log_p = d_label - d_log_total
    if sums.moment is None:
        return d_log_p, None
    finite = jnp.maximum(shifted, jnp.finfo(shifted.dtype).min)  # not 0 times infinity
    d_moment = jnp.sum(exps * finite * d_logits, axis) / sums.total
    return d_log_p, sums.moment / sums.total * d_log_total - d_moment


@log_space.custom_jvp(0, 1)
def row_sums(
    axis: int, with_entropy: bool, logits: jax.Array, labels: jax.Array
) -> Sums:
    """The sums, computed as suits the platform.

    Args:
      axis: the class axis, counted from the front.
      with_entropy: whether to compute the moment.
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]``; one outside ``[0, num_classes)`` gives NaN.
    """
    return jax.lax.platform_dependent(
        logits,
        labels,
        cpu=functools.partial(in_passes, axis, with_entropy),
        cuda=functools.partial(online, axis, with_entropy, _parts(logits, axis)),
        default=functools.partial(online, axis, with_entropy, 1),
    )


def _parts(logits: jax.Array, axis: int) -> int:
    """How many neighbouring classes share a column on a GPU."""
    # Measured on an H200: benchmarks/results/columns_h200.md. Where the types say that
    # devices share the classes, no column may lie on two of them.
    sharding = jax.typeof(logits).sharding
    names = sharding.spec[axis] or ()
    names = (names,) if isinstance(names, str) else names
    classes = logits.shape[axis] // math.prod(sharding.mesh.shape[n] for n in names)
    return math.gcd(classes, 2 if logits.dtype.itemsize >= 4 else 8)


@row_sums.defjvp
def _row_sums_jvp(axis, with_entropy, primals, tangents):
    """For second derivatives, of the plain form; JAX cannot derive the other."""
    logits, labels = primals
    passes = functools.partial(in_passes, axis, with_entropy, labels=labels)
    return jax.jvp(passes, (logits,), (tangents[0],))


def in_passes(
    axis: int, with_entropy: bool, logits: jax.Array, labels: jax.Array
) -> Sums:
    """The sums as in the formulas above, in forms that XLA's CPU backend fuses."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    logits = logits.astype(log_space.wide(logits))
    top = top.astype(logits.dtype)
    label = log_space.select_label(logits, labels, axis)
    exps = jnp.exp(logits - top)
    moment = None
    if with_entropy:
        # Halved, because XLA's CPU backend would write the difference out.
        halves = jnp.maximum(logits / 2 - top / 2, jnp.finfo(logits.dtype).min / 2)
        moment = 2 * jnp.sum(exps * halves, axis)
    return Sums(jnp.squeeze(top, axis), label, jnp.sum(exps, axis), moment)


def online(
    axis: int, with_entropy: bool, parts: int, logits: jax.Array, labels: jax.Array
) -> Sums:
    """The same sums from one reduction, over columns of so many classes."""
    logits = logits.astype(log_space.wide(logits))
    labelled = log_space.one_hot(labels, logits.shape, axis)
    least = np.asarray(jnp.finfo(logits.dtype).min)  # -inf would be -inf below itself
    zero = np.zeros((), logits.dtype)
    label = jnp.where(labelled, logits, zero)
    of_columns = _of_columns(axis, parts, jnp.maximum(logits, least), label)
    number = 4 if with_entropy else 3
    top, label, total, *moment = jax.lax.reduce(
        of_columns[:number], (least, zero, zero, zero)[:number], _join, (axis,)
    )
    known = (labels >= 0) & (labels < logits.shape[axis])
    label = jnp.where(known, label, jnp.nan)
    return Sums(top, label, total, moment[0] if with_entropy else None)


def _of_columns(
    axis: int, parts: int, logits: jax.Array, label: jax.Array
) -> tuple[jax.Array, ...]:
    """Top, label, total and moment of each column of classes."""
    if parts == 1:
        return logits, label, jnp.ones_like(logits), jnp.zeros_like(logits)

    # Neighbours share a column: where devices share the classes, each has them.
    def split(x: jax.Array) -> list[jax.Array]:
        return [jax.lax.slice_in_dim(x, i, None, parts, axis) for i in range(parts)]

    classes = split(logits)
    top = functools.reduce(jnp.maximum, classes)
    # Further down the exponential is zero; the bound keeps products from overflowing.
    shifted = [jnp.maximum(z - top, -1000) for z in classes]
    exps = [jnp.exp(z) for z in shifted]
    moments = [e * z for e, z in zip(exps, shifted, strict=True)]
    add = functools.partial(functools.reduce, jnp.add)
    return top, add(split(label)), add(exps), add(moments)


def _join(one: tuple, other: tuple) -> tuple[Any, ...]:
    """Joins two parts of a row: rescales the lower one's sums to the higher top."""
    (top, label, total, *moment), (top_2, label_2, total_2, *moment_2) = one, other
    higher = top_2 > top
    # Beyond this the exponential is zero; the bound keeps products from overflowing.
    fall = jnp.minimum(jnp.abs(top_2 - top), 1000)
    scale = jnp.exp(-fall)

    def add(part, part_2):
        first, second = jnp.where(higher, scale, 1), jnp.where(higher, 1, scale)
        return part * first + part_2 * second

    joined = jnp.maximum(top, top_2), label + label_2, add(total, total_2)
    if not moment:
        return joined
    below_top = moment[0] - total * jnp.where(higher, fall, 0)
    below_top_2 = moment_2[0] - total_2 * jnp.where(higher, 0, fall)
    return *joined, add(below_top, below_top_2)
