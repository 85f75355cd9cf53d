r"""Sums over the classes, for losses that need more of a row than its label.

A loss is a function of a few numbers a row :math:`r` and of sums over its classes,

.. math::
  S = \sum_k f(z_k, r), \qquad
  dS = \sum_k \frac{\partial f}{\partial z_k} \, dz_k
     + \sum_i \Big( \sum_k \frac{\partial f}{\partial r_i} \Big) dr_i .

The sums in brackets are numbers of the row too and are computed with the value. What
remains, the gradient, is elementwise, and is computed from the logits when the
cotangents are known. So a loss reads the logits once for each sum that depends on
another, and once for its gradient. It keeps no other array of that size: such arrays
took up to two thirds of the time on a TPU.

To add a loss of this kind, write ``term(log_p, *parameters)`` as for
:mod:`~dal_jax.losses.closed_form` and call :func:`label_and_sum`, or write elementwise
functions of the logits for :func:`sum_over_classes`. Both take logits that
``log_space.check`` returned, in their own dtype.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dal_jax.losses import log_space, softmax

Rows = tuple[jax.Array, ...]


@log_space.custom_jvp(0, 1)
def sum_over_classes(
    function: Callable[..., jax.Array], axis: int, arrays: Rows, rows: Rows
) -> jax.Array:
    """Sums an elementwise function over the classes.

    Args:
      function: elementwise and differentiable, ``function(*arrays, *rows)``.
      axis: the class axis, counted from the front.
      arrays: ``[..., num_classes]`` each, the logits first.
      rows: scalars, or numbers of each row, ``[..., 1]``, in the dtype to compute in.

    Returns:
      The sums, ``[..., 1]``.
    """
    return jnp.sum(function(*arrays, *rows), axis, keepdims=True)


@functools.partial(sum_over_classes.defjvp, symbolic_zeros=True)
def _sum_over_classes_jvp(function, axis, primals, tangents):
    arrays, rows = primals
    d_arrays, d_rows = tangents
    total = sum_over_classes(function, axis, arrays, rows)
    tangent = jnp.zeros_like(total)
    for i, d_row in enumerate(d_rows, start=len(arrays)):
        if not isinstance(d_row, SymbolicZero):
            rows = apart(rows)  # from the sums before as well
            slope = functools.partial(_slope, function, i)
            tangent += sum_over_classes(slope, axis, arrays, rows) * d_row
    moving = [i for i, d in enumerate(d_arrays) if not isinstance(d, SymbolicZero)]
    if moving:
        linear = functools.partial(_of_arrays, function, axis, moving)
        # Without a checkpoint the slopes would be kept for the backward pass.
        linear = jax.checkpoint(linear, prevent_cse=False)
        tangent += linear(arrays, apart(rows), [d_arrays[i] for i in moving])
    return total, tangent


def _of_arrays(function, axis, moving, arrays, rows, d_arrays):
    """Linear in ``d_arrays``; transposed, it is the gradient."""
    parts = [
        _slope(function, i, *arrays, *rows) * d_array.astype(log_space.wide(d_array))
        for i, d_array in zip(moving, d_arrays, strict=True)
    ]
    return jnp.sum(functools.reduce(jnp.add, parts), axis, keepdims=True)


def _slope(function: Callable, i: int, *arguments: jax.Array) -> jax.Array:
    """The derivative of an elementwise function by one of its arguments."""

    def of_one(argument):
        return function(*arguments[:i], argument, *arguments[i + 1 :])

    # A derivative by bfloat16 logits would be rounded to bfloat16.
    argument = arguments[i].astype(log_space.wide(arguments[i]))
    return jax.jvp(of_one, (argument,), (jnp.ones_like(argument),))[1]


def apart(rows: Rows) -> Rows:
    """Makes XLA compute again what another sum of the same numbers computes too.

    It would be computed once and written out, at the logits' size. The CPU, where
    exponentials take longer than memory, is left to do so.
    """
    return jax.lax.platform_dependent(
        rows, cpu=lambda rows: rows, default=jax.lax.optimization_barrier
    )


def label_and_sum(
    term: Callable[..., jax.Array],
    logits: jax.Array,
    labels: jax.Array,
    parameters: tuple[Any, ...] = (),
    *,
    axis: int,
) -> tuple[jax.Array, jax.Array]:
    r"""Returns :math:`f(\log p_y)` and :math:`\sum_k f(\log p_k)`, ``[...]`` each.

    For distributions the first is :math:`\sum_k y_k f(\log p_k)`. The parameters of
    ``term`` are scalars.
    """
    log_p, top, log_total = label_and_normalizer(axis, logits, labels)
    rows = (top, log_total, *(jnp.asarray(p, log_p.dtype) for p in parameters))
    of_class = functools.partial(_of_class, term)
    total = sum_over_classes(of_class, axis, (logits,), rows)
    if labels.ndim < logits.ndim:
        own = term(log_p, *rows[2:])
    else:
        of_class = functools.partial(_weighted, of_class)
        own = sum_over_classes(of_class, axis, (logits, labels), rows)
        own = jnp.squeeze(own, axis)
    return own, jnp.squeeze(total, axis)


def _of_class(term, logits, top, log_total, *parameters):
    return term(log_p_of(logits, top, log_total), *parameters)


def _weighted(of_class, logits, weights, *rows):
    return weights * of_class(logits, *rows)


def label_and_normalizer(
    axis: int, logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""The label's log-probability, the largest logit, and the rest of the normaliser.

    Returns:
      :math:`\log p_y` or :math:`\sum_k y_k \log p_k`, ``[...]``; :math:`m` and
      :math:`\log \sum_k e^{z_k - m}`, ``[..., 1]``, so that
      :func:`log_p_of` gives every class's log-probability. No gradient flows through
      :math:`m`, for the log-probabilities do not depend on it.
    """
    if labels.ndim < logits.ndim:
        log_p, top, log_total = _label_and_normalizer(axis, logits, labels)
        return log_p, jax.lax.stop_gradient(top), log_total
    rows = normalizer(axis, logits)
    weighted = functools.partial(_weighted, log_p_of)
    log_p = sum_over_classes(weighted, axis, (logits, labels), rows)
    return jnp.squeeze(log_p, axis), *rows


def normalizer(axis: int, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The last two of :func:`label_and_normalizer`, without a label."""
    any_label = jnp.zeros(logits.shape[:axis] + logits.shape[axis + 1 :], jnp.int32)
    _, top, log_total = label_and_normalizer(axis, logits, any_label)
    return top, log_total


@log_space.custom_jvp(0)
def _label_and_normalizer(axis, logits, labels):
    sums = softmax.row_sums(axis, False, logits, labels)
    log_total = jnp.log(sums.total)
    log_p = sums.label - sums.top - log_total
    return log_p, *(jnp.expand_dims(row, axis) for row in (sums.top, log_total))


@_label_and_normalizer.defjvp
def _label_and_normalizer_jvp(axis, primals, tangents):
    logits, labels = primals
    log_p, top, log_total = _label_and_normalizer(axis, logits, labels)
    linear = functools.partial(_of_logits, axis)
    linear = jax.checkpoint(linear, prevent_cse=False)
    d_label, d_log_total = linear(logits, labels, apart((top, log_total)), tangents[0])
    tangent = d_label - jnp.squeeze(d_log_total, axis), jnp.zeros_like(top), d_log_total
    return (log_p, top, log_total), tangent


def _of_logits(axis, logits, labels, rows, d_logits):
    """Linear in ``d_logits``."""
    d_logits = d_logits.astype(log_space.wide(d_logits))
    labelled = log_space.one_hot(labels, logits.shape, axis)
    d_label = jnp.sum(jnp.where(labelled, d_logits, 0), axis)
    p = jnp.exp(log_p_of(logits, *rows))
    return d_label, jnp.sum(p * d_logits, axis, keepdims=True)


def log_p_of(logits: jax.Array, top: jax.Array, log_total: jax.Array) -> jax.Array:
    """The log-probabilities of all classes, finite even for logits of ``-inf``."""
    return log_space.below(logits, top) - log_total
