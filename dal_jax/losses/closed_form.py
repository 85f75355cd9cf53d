r"""Losses of the label's log-probability, with their derivative in closed form.

Most losses of the family are a function of the log-probability of the given label,
:math:`\log p_y`, alone. :func:`of_label` turns such a function, written for one
number, into a loss: validated, masked, in float32, with the closed-form derivative

.. math::
  \frac{\partial L}{\partial z_k} = f'(\log p_y) \, ([k = y] - p_k)
  - w \, p_k (\log p_k + H),

where the second term is that of an entropy added with weight :math:`w`. For integer
labels both come from :mod:`dal_jax.losses.softmax`, for distributions from the
log-probabilities of all classes. To add a loss of this kind, write ``_term(log_p,
*parameters)`` without clamps and as accurate near ``log_p = 0`` as ``expm1`` and
``log1p`` allow, and return ``of_label(_term, logits, labels, parameters, axis=axis,
where=where)``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dal_jax.losses import log_space
from dal_jax.losses.softmax import label_and_entropy
from dal_jax.losses.summation import below, half_below, sums_over_classes

Term = Callable[..., jax.Array]


def of_label(
    term: Term,
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    parameters: tuple = (),
    *,
    entropy_weight: jax.typing.ArrayLike | None = None,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The loss ``term(log p_y, *parameters) + entropy_weight * H(p)``.

    For distributions the first part is :math:`\sum_k y_k f(\log p_k)`.

    Args:
      term: elementwise and differentiable, ``(log_p, *parameters) -> loss``.
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]`` or distributions ``[..., num_classes]``.
      parameters: floats or float arrays that broadcast with ``[...]``.
      entropy_weight: float or array of the same kind; ``None`` adds no entropy.
      axis: the class axis of ``logits``.
      where: rows to keep, ``[...]``.

    Returns:
      The loss of each row, ``[...]``, in float32 (float64 for float64 logits).
    """
    logits, labels, axis = log_space.check(logits, labels, axis=axis, where=where)
    as_float = functools.partial(jnp.asarray, dtype=log_space.wide(logits))
    parameters = map(as_float, parameters)
    with_entropy = entropy_weight is not None
    if labels.ndim == logits.ndim:
        log_p = log_space.log_probs(logits.astype(log_space.wide(logits)), axis)
        entropy = log_space.entropy(log_p, axis) if with_entropy else None
        fit = functools.partial(_one_a_row, axis)
        loss = jnp.sum(labels * term(log_p, *map(fit, parameters)), axis)
    else:
        log_p, entropy = label_and_entropy(axis, with_entropy, logits, labels)
        loss = term(log_p, *parameters)
    if entropy is not None:
        loss += as_float(entropy_weight) * entropy
    return log_space.mask(loss, where)


def _one_a_row(axis: int, parameter: jax.Array) -> jax.Array:
    """A parameter, one for all or one a row, in the rank of the logits."""
    return jnp.expand_dims(parameter, axis) if parameter.ndim else parameter


class Softmax:
    """What the loss and its gradient share, so that the logits are exponentiated once.

    ``log_p`` holds one number a row for integer labels, all classes for distributions.
    """

    def __init__(
        self, logits: jax.Array, labels: jax.Array, axis: int, *, with_entropy: bool
    ):
        self.labels, self.soft = labels, labels.ndim == logits.ndim
        self.widen = functools.partial(jnp.expand_dims, axis=axis)
        self.axis = axis
        top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
        narrow, logits = logits, logits.astype(log_space.wide(logits))
        top = top.astype(logits.dtype)
        self.shifted = logits - top
        self.exps = jnp.exp(self.shifted)
        moment = None
        if with_entropy and narrow.dtype != logits.dtype:
            degrees = jnp.arange(2, dtype=logits.dtype)
            sums = sums_over_classes(_moment, (narrow,), (top,), (degrees,), axis)
            self.total, moment = jnp.squeeze(sums, axis + 1)
        else:
            self.total = jnp.sum(self.exps, axis)
            if with_entropy:
                # Halved, because XLA's CPU backend would write ``shifted`` out.
                half = half_below(logits, top)
                moment = 2 * jnp.sum(self.exps * half, axis)
        top = jnp.squeeze(top, axis)
        self.log_total = jnp.log(self.total)
        if self.soft:
            self.log_p = self.finite_shifted() - self.widen(self.log_total)
        else:
            self.log_p = (
                log_space.select_label(logits, labels, axis) - top - self.log_total
            )
        if moment is not None:
            self.entropy = self.log_total - moment / self.total

    def finite_shifted(self) -> jax.Array:
        """So that a class of logit ``-inf`` adds nothing, not 0 times infinity."""
        return jnp.maximum(self.shifted, jnp.finfo(self.shifted.dtype).min)

    def fit(self, parameter: jax.Array) -> jax.Array:
        """A parameter, one for all or one a row, in the rank of ``log_p``."""
        return self.widen(parameter) if self.soft and parameter.ndim else parameter

    def average(self, values: jax.Array) -> jax.Array:
        """Over the label's distribution, of a value for every ``log_p``."""
        return jnp.sum(self.labels * values, self.axis) if self.soft else values

    def gradient(self, slopes: jax.Array, weight: jax.Array | None) -> jax.Array:
        """Of ``f(log_p) + weight * entropy`` where ``f`` has the slopes given."""
        if self.soft:
            gradient = self.labels * slopes
        else:
            labelled = log_space.one_hot(self.labels, self.shifted.shape, self.axis)
            gradient = jnp.where(labelled, self.widen(slopes), 0)
        slope = self.average(slopes)
        if weight is None:
            return gradient - self.exps * self.widen(slope / self.total)
        # p (log p + H), with the division by the total done once a row.
        constant = slope + weight * (self.entropy - self.log_total)
        linear = self.widen(weight / self.total) * self.finite_shifted()
        return gradient - self.exps * (self.widen(constant / self.total) + linear)


def _moment(logits: jax.Array, top: jax.Array, degree: jax.Array) -> jax.Array:
    """Exponentials for degree 0, and times their exponents for degree 1."""
    shifted = below(logits.astype(top.dtype), top)
    return jnp.exp(shifted) * (1 - degree + degree * shifted)


def _is_zero(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)


def _instantiate(primal: jax.Array, tangent: Any) -> jax.Array:
    return jnp.zeros_like(primal) if _is_zero(tangent) else tangent
