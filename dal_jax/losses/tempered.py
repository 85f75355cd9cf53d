r"""Bi-tempered logistic loss: a bounded logarithm on a heavy-tailed softmax.

Amid et al. (2019), "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences",
arXiv:1906.03361. With :math:`c = t - 1`,

.. math::
  \log_t u = \frac{u^{-c} - 1}{-c}, \qquad
  \exp_t u = (1 - c u)^{-1 / c},

which are the natural ones at :math:`t = 1`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dal_jax.errors import InputError
from dal_jax.losses import closed_form, log_space
from dal_jax.losses.dal import gce_term
from dal_jax.losses.summation import below, share_of_top, sums_over_classes


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
      t2: at least 1, and above 1 for heavy tails. Both scalar, may be traced; half the
        time is saved where ``1 / (t2 - 1)`` is a whole number up to 10, as published
        (1.2), and given as a Python number.
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
    solver = _Solver(num_iters, _whole_power(1, t2), _whole_power(t1, t2))
    temperatures = jnp.asarray(t1, logits.dtype), jnp.asarray(t2, logits.dtype)
    of_rows = _divergence if labels.ndim == logits.ndim else _divergence_from_label
    return log_space.mask(of_rows(axis, solver, logits, labels, temperatures), where)


class _Solver(NamedTuple):
    """What is static about the tempered softmax.

    ``power`` is :math:`1 / c` and ``own_power`` :math:`(2 - t_1) / c` where that is a
    small whole number: products of :math:`w_k = 1 - c s u_k` then replace a logarithm
    and an exponential.
    """

    num_iters: int
    power: int | None
    own_power: int | None

    def decay(
        self, u: jax.Array, c: jax.Array, scale: jax.Array, extra: int = 0
    ) -> jax.Array:
        """:math:`w_k^{-1/c}`, over ``extra`` further factors :math:`w_k`."""
        if self.power is None:
            return jnp.exp((-1 / c - extra) * _log_w(u, c, scale))
        return jax.lax.integer_pow(1 - c * scale * u, -self.power - extra)

    def own(
        self, u: jax.Array, c: jax.Array, scale: jax.Array, exponent: jax.Array
    ) -> jax.Array:
        """:math:`w_k^{-(2 - t_1) / c}`, with the ``exponent`` that this is."""
        if self.own_power is None:
            return jnp.exp(-exponent * _log_w(u, c, scale))
        return jax.lax.integer_pow(1 - c * scale * u, -self.own_power)


def _whole_power(t1: jax.typing.ArrayLike, t2: jax.typing.ArrayLike) -> int | None:
    if not isinstance(t1, float | int) or not isinstance(t2, float | int):
        return None  # perhaps traced
    power = (2 - t1) / (t2 - 1) if t2 > 1 else 0
    # Each factor adds a rounding, of which ten are no more than exp and log have.
    whole = 0.5 < power < 10.5 and abs(power - round(power)) < 1e-9
    return round(power) if whole else None


def _divergence(
    axis: int,
    solver: _Solver,
    logits: jax.Array,
    labels: jax.Array,
    temperatures: tuple[jax.Array, jax.Array],
) -> jax.Array:
    t1, t2 = temperatures
    top, c, _, log_totals = _normalize(axis, solver, logits, t2)
    log_total = log_totals[-1]
    log_p = -_log_w(below(logits, top), c, jnp.exp(-c * log_total)) / c - log_total
    power = 2 - t1
    mass = jnp.sum(jnp.exp(power * log_p), axis)
    if labels.ndim < logits.ndim:
        fit = gce_term(log_space.select_label(log_p, labels, axis), 1 - t1)
        return fit + (mass - 1) / power
    log_y = jnp.log(jnp.where(labels > 0, labels, 1))
    own = gce_term(log_y, 1 - t1)
    fit = jnp.sum(labels * (gce_term(log_p, 1 - t1) - own), axis)
    own_mass = jnp.sum(jnp.where(labels > 0, jnp.exp(power * log_y), 0), axis)
    return fit + (mass - own_mass) / power


def _with_gradient(axis, solver, logits, labels, temperatures):
    r"""The loss and its gradient: sums over the classes and one last pass.

    With :math:`w_{ik} = 1 - c s_i u_k`, iteration :math:`i` is
    :math:`Z_i = \sum_k w_{ik}^{-1/c}` and :math:`s_{i+1} = Z_i^{-c}`, so that

    .. math::
      d \log Z_i = \frac{s_i}{Z_i} \sum_k w_{ik}^{-1/c - 1}
        (du_k - c u_k \, d \log Z_{i-1}), \qquad
      d \log p_k = \frac{s_N du_k - d \log Z_{N-1}}{w_{Nk}}.
    """
    t1, t2 = temperatures
    top, c, scales, log_totals = _normalize(axis, solver, logits, t2)
    log_total, power = log_totals[-1], 2 - t1
    scale, unit = jnp.exp(-c * log_total), jnp.exp(-power * log_total)

    def own(logits, top, scale, exponent, further):
        u = logits - top
        factor = 1 - further + further / (1 - c * scale * u)
        return solver.own(u, c, scale, exponent) * factor

    def back(carry, iteration):
        (weight, excess), (scale, log_total) = carry, iteration
        scale, row = jax.lax.optimization_barrier((scale, top))
        u = below(logits, row)
        pull = c * jnp.sum(u * solver.decay(u, c, scale, 1), axis, keepdims=True)
        weight *= scale * jnp.exp(-log_total)
        excess += weight * (jnp.exp(log_total) + scale * pull)
        return (-weight * pull, excess), weight

    u_y = jnp.expand_dims(log_space.select_label(logits, labels, axis), axis) - top
    log_w_y = _log_w(u_y, c, scale)
    log_p_y = -log_w_y / c - log_total
    own_y = jnp.exp((1 - t1) * log_p_y - log_w_y)
    shared, further = (top, scale, power / c), jnp.arange(2, dtype=logits.dtype)
    mass, own_sum = unit * sums_over_classes(own, (logits,), shared, (further,), axis)
    loss = gce_term(log_p_y, 1 - t1) + (mass - 1) / power
    missing = own_y - own_sum
    (_, excess), weights = jax.lax.scan(
        back, (missing, -scale * missing), (scales, log_totals), reverse=True
    )
    u = logits - top
    gradient = scale * unit * own(logits, top, scale, power / c, 1)
    for i in range(solver.num_iters + 1):
        gradient += weights[i] * solver.decay(u, c, scales[i], 1)
    labelled = log_space.one_hot(labels, logits.shape, axis)
    gradient -= jnp.where(labelled, scale * own_y, 0)
    gradient -= excess * share_of_top(logits, top, axis)
    return jnp.squeeze(loss, axis), gradient


_divergence_from_label = closed_form.with_gradient(_divergence, _with_gradient)


def _normalize(axis: int, solver: _Solver, logits: jax.Array, t2: jax.Array):
    r"""The tempered softmax, whose normaliser is found by fixed-point iteration.

    Returns:
      The largest logit, :math:`c`, and of each iteration :math:`s_i` and
      :math:`\log Z_i`.
    """
    # Near enough to the limit at t2 = 1 to equal it, without a case of its own.
    c = jnp.where(t2 == 1, 1e-20, t2 - 1)
    # Short of convergence the normaliser depends on where it starts, so the
    # gradient goes through the maximum.
    top = jnp.max(logits, axis, keepdims=True)

    # Loops here and for the derivative, since of the same steps in a row XLA's CPU
    # backend would write out all that two of them have in common; and barriers, since
    # it would write out before a loop what does not change in it.
    def iterate(scale, _):
        scale, row = jax.lax.optimization_barrier((scale, top))
        decay = solver.decay(logits - row, c, scale)
        log_total = jnp.log(jnp.sum(decay, axis, keepdims=True))
        return jnp.exp(-c * log_total), (scale, log_total)

    start = jnp.ones_like(top)
    _, (scales, log_totals) = jax.lax.scan(iterate, start, length=solver.num_iters + 1)
    return top, c, scales, log_totals


def _log_w(u: jax.Array, c: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.log1p(-c * scale * u)
