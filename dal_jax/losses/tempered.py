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
    t1, power = jnp.asarray(t1, logits.dtype), 2 - jnp.asarray(t1, logits.dtype)
    log_p = _tempered_log_probs(logits, jnp.asarray(t2, logits.dtype), num_iters, axis)
    mass = jnp.sum(jnp.exp(power * log_p), axis)
    if labels.ndim < logits.ndim:
        own = log_space.select_label(log_p, labels, axis)
        loss = gce_term(own, 1 - t1) + (mass - 1) / power
    else:
        log_y = jnp.log(jnp.where(labels > 0, labels, 1))
        fit = labels * (gce_term(log_p, 1 - t1) - gce_term(log_y, 1 - t1))
        own_mass = jnp.sum(jnp.where(labels > 0, jnp.exp(power * log_y), 0), axis)
        loss = jnp.sum(fit, axis) + (mass - own_mass) / power
    return log_space.mask(loss, where)


def _tempered_log_probs(
    logits: jax.Array, t2: jax.Array, num_iters: int, axis: int
) -> jax.Array:
    r"""Logarithms of the tempered softmax.

    With :math:`u` the logits below their maximum, :math:`Z(s) = \sum_k \exp_t(s u_k)`
    and :math:`s \leftarrow Z(s)^{-c}`, iterated from 1, the probabilities are
    :math:`\exp_t(Z^{-c} u_k) / Z` with the last :math:`Z`.
    """
    # Close enough to the limit at t2 = 1 to equal it, without a special case.
    c = jnp.where(t2 == 1, 1e-20, t2 - 1)
    # Before convergence the normaliser depends on where it starts, so the gradient goes
    # through the maximum.
    top = jnp.max(logits, axis, keepdims=True)
    below = jnp.maximum(logits - top, jnp.finfo(logits.dtype).min)

    def log_exp_t(scale):
        return -jnp.log1p(-c * scale * below) / c

    def log_total(scale):
        return jnp.log(jnp.sum(jnp.exp(log_exp_t(scale)), axis, keepdims=True))

    # Without the checkpoint each iteration would keep arrays of the logits' size.
    @jax.checkpoint
    def iterate(_, scale):
        return jnp.exp(-c * log_total(scale))

    scale = jax.lax.fori_loop(0, num_iters, iterate, jnp.ones_like(top))
    last = log_total(scale)
    return log_exp_t(jnp.exp(-c * last)) - last
