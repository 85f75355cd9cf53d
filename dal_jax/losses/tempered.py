r"""Bi-tempered logistic loss: a bounded logarithm on a heavy-tailed softmax.

Amid et al. (2019), "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences",
arXiv:1906.03361. With :math:`c = t - 1`,

.. math::
  \log_t u = \frac{u^{-c} - 1}{-c}, \qquad
  \exp_t u = (1 - c u)^{-1 / c},

which become the natural ones at :math:`t = 1`.
"""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.errors import InputError
from dal_jax.hyperparameters import AtLeastOne, Range
from dal_jax.losses import log_space
from dal_jax.losses.class_sums import sum_over_classes
from dal_jax.losses.dal import gce_term


def bi_tempered(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    t1: Annotated[ArrayLike, Range(-math.inf, 2, ")")] = 0.8,
    t2: AtLeastOne = 1.2,
    num_iters: Annotated[int, Range(0)] = 5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Bi-tempered logistic loss.

    .. math::
      L = \sum_k y_k (\log_{t_1} y_k - \log_{t_1} p_k)
      - \frac{1}{2 - t_1} \sum_k (y_k^{2 - t_1} - p_k^{2 - t_1}), \qquad
      p_k = \exp_{t_2}(z_k - \lambda(z)),

    where :math:`\lambda` makes the probabilities sum to 1. It is found by fixed-point
    iteration. The derivative goes through the iterations, as in the released code, so
    value and gradient agree even if the iterations have not converged. At
    ``t1 = t2 = 1`` the loss is the cross entropy. The released code's values differ by
    a constant of up to 2e-6 (it adds 1e-10 inside the logarithm of a one-hot label, in
    single precision); its gradients are equal.

    Hyper-parameters:
      t1: below 2, and below 1 for a bounded loss.
      t2: at least 1, and above 1 for heavy tails. Both scalar, may be traced.
      num_iters: fixed-point iterations, a Python integer. Few are enough for ``t2``
        near 1; with too few the probabilities do not quite sum to 1.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Raises:
      InputError: if ``num_iters`` is negative.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> bi_tempered(logits, jnp.array([0, 1])).tolist()
      [0.16, 0.539]
    """
    if num_iters < 0:
        raise InputError(f"num_iters is {num_iters}: expected 0 or more, such as 5")
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    wide = log_space.wide(logits)
    t1, power = jnp.asarray(t1, wide), 2 - jnp.asarray(t1, wide)
    rows = _normalizer(logits, jnp.asarray(t2, wide), num_iters, axis)
    mass = sum_over_classes(_powers, axis, (logits,), (*rows, power))
    if labels.ndim < logits.ndim:
        label = log_space.select_label(logits, labels, axis)
        fit = gce_term(_log_p(jnp.expand_dims(label, axis), *rows), 1 - t1)
        own_mass = 1
    else:
        fit = sum_over_classes(_weighted, axis, (logits, labels), (*rows, 1 - t1))
        log_y = jnp.log(jnp.where(labels > 0, labels, 1))
        fit -= jnp.sum(labels * gce_term(log_y, 1 - t1), axis, keepdims=True)
        own_mass = jnp.where(labels > 0, jnp.exp(power * log_y), 0)
        own_mass = jnp.sum(own_mass, axis, keepdims=True)
    loss = fit + (mass - own_mass) / power
    return log_space.mask(jnp.squeeze(loss, axis), where)


def _normalizer(
    logits: jax.Array, t2: jax.Array, num_iters: int, axis: int
) -> tuple[jax.Array, ...]:
    r"""The numbers of each row that make :func:`_log_p` of its logits.

    With :math:`u` the logits below their maximum, :math:`Z(s) = \sum_k \exp_t(s u_k)`
    and :math:`s \leftarrow Z(s)^{-c}`, iterated from 1, the probabilities are
    :math:`\exp_t(Z^{-c} u_k) / Z` with the last :math:`Z`.

    Returns:
      The maximum, :math:`Z^{-c}` and :math:`\log Z`, ``[..., 1]``, and :math:`c`.
    """
    # Close enough to the limit at t2 = 1 to equal it, without a special case.
    c = jnp.where(t2 == 1, 1e-20, t2 - 1)
    # Before convergence the normaliser depends on where it starts, so the gradient goes
    # through the maximum.
    top = jnp.max(logits, axis, keepdims=True)

    def log_total(scale):
        return jnp.log(sum_over_classes(_exp_t, axis, (logits,), (top, scale, c)))

    scale = jnp.ones_like(top)
    for _ in range(num_iters):
        scale = jnp.exp(-c * log_total(scale))
    last = log_total(scale)
    return top, jnp.exp(-c * last), last, c


def _exp_t(logits, top, scale, c):
    return jnp.exp(_log_p(logits, top, scale, 0, c))


def _log_p(logits, top, scale, log_total, c):
    return -jnp.log1p(-c * scale * log_space.below(logits, top)) / c - log_total


def _powers(logits, top, scale, log_total, c, power):
    return jnp.exp(power * _log_p(logits, top, scale, log_total, c))


def _weighted(logits, labels, top, scale, log_total, c, power):
    return labels * gce_term(_log_p(logits, top, scale, log_total, c), power)
