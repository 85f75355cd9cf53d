r"""Bi-tempered logistic loss: a bounded logarithm on a heavy-tailed softmax.

Amid et al. (2019), "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences",
arXiv:1906.03361. With :math:`c = t - 1`,

.. math::
  \log_t u = \frac{u^{-c} - 1}{-c}, \qquad
  \exp_t u = (1 - c u)^{-1 / c},

which are the natural ones at :math:`t = 1`.
"""

import jax
import jax.numpy as jnp

from dal_jax.errors import InputError
from dal_jax.losses import log_space
from dal_jax.losses.dal import gce_term


def bi_tempered(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    t1: jax.typing.ArrayLike = 0.8,
    t2: jax.typing.ArrayLike = 1.2,
    num_iters: int = 5,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Bi-tempered logistic loss.

    .. math::
      L = \sum_k y_k (\log_{t_1} y_k - \log_{t_1} p_k)
      - \frac{1}{2 - t_1} \sum_k (y_k^{2 - t_1} - p_k^{2 - t_1}), \qquad
      p_k = \exp_{t_2}(z_k - \lambda(z)),

    where :math:`\lambda` makes the probabilities sum to 1. It is found by fixed-point
    iteration; the derivative is that of the iterations, as in the released code, so
    value and gradient fit together even where they have not converged. At
    ``t1 = t2 = 1`` it is the cross entropy. The released code's values differ by a
    constant of up to 2e-6 (its logarithm of a one-hot label adds 1e-10 in single
    precision); its gradients are equal.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``.
      t1: below 2, and below 1 for a bounded loss.
      t2: at least 1, and above 1 for heavy tails. Both scalar, may be traced.
      num_iters: fixed-point iterations, a Python integer. Few are enough for ``t2``
        near 1; with too few the probabilities do not quite sum to 1.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.
      InputError: if ``num_iters`` is negative.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> print(np.array(bi_tempered(logits, jnp.array([0, 1]))).round(3))
      [0.16  0.539]

    References:
      Amid et al., 2019, arXiv:1906.03361.
    """
    if num_iters < 0:
        raise InputError(f"num_iters is {num_iters}: expected 0 or more, such as 5")
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    t1, t2 = jnp.asarray(t1, logits.dtype), jnp.asarray(t2, logits.dtype)
    # Short of convergence the normaliser depends on where it starts, so the gradient
    # goes through the maximum.
    shifted = logits - jnp.max(logits, axis, keepdims=True)
    log_p = _log_exp(shifted - _normalizer(axis, num_iters, shifted, t2), t2)
    power = 2 - t1
    mass = jnp.sum(jnp.exp(power * log_p), axis)
    if labels.ndim < logits.ndim:
        fit = gce_term(log_space.select_label(log_p, labels, axis), 1 - t1)
        return log_space.mask(fit + (mass - 1) / power, where)
    log_y = jnp.log(jnp.where(labels > 0, labels, 1))
    own = gce_term(log_y, 1 - t1)
    fit = jnp.sum(labels * (gce_term(log_p, 1 - t1) - own), axis)
    own_mass = jnp.sum(jnp.where(labels > 0, jnp.exp(power * log_y), 0), axis)
    return log_space.mask(fit + (mass - own_mass) / power, where)


def _log_exp(u: jax.Array, t: jax.Array) -> jax.Array:
    r"""Returns :math:`\log \exp_t u = -\log(1 - c u) / c` for ``u <= 0``."""
    c = t - 1
    return jnp.where(c == 0, u, -jnp.log1p(-c * u) / _nonzero(c))


def _normalizer(axis: int, num_iters: int, u: jax.Array, t: jax.Array) -> jax.Array:
    r"""Returns :math:`\lambda` of ``u``, whose largest value is 0."""
    c = t - 1

    def total(scale):
        return jnp.sum(jnp.exp(_log_exp(scale * u, t)), axis, keepdims=True)

    scale = jnp.ones_like(jnp.max(u, axis, keepdims=True))
    for _ in range(num_iters):
        scale = total(scale) ** -c
    log_total = jnp.log(total(scale))
    return jnp.where(c == 0, log_total, jnp.expm1(c * log_total) / _nonzero(c))


def _nonzero(c: jax.Array) -> jax.Array:
    return jnp.where(c == 0, 1, c)
