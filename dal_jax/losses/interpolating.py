r"""Losses between cross entropy, which fits, and mean absolute error, which is robust.

With integer labels, each depends only on the label's probability. So does the
generalized cross entropy, :func:`dal_jax.losses.gce`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.errors import InputError
from dal_jax.hyperparameters import AtLeastOne, Count, InnerFraction
from dal_jax.losses import closed_form, log_space


def taylor_ce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    order: Count = 2,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Taylor cross entropy, the series of :math:`-\log p_y` around 1, cut off.

    .. math::
      L = \sum_{i=1}^{n} \frac{(1 - p_y)^i}{i}

    Order 1 is the mean absolute error; as the order grows, the loss becomes the cross
    entropy. The released code clamps probabilities at 1e-6, which lowers the loss by up
    to :math:`10^{-6} n`.

    Hyper-parameters:
      order: :math:`n`, a Python integer of at least 1.

    Returns:
      The loss of each example, ``[...]``, between 0 and the harmonic number of the
      order.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> taylor_ce(logits, jnp.array([0, 1])).tolist()
      [0.168, 0.615]

    References:
      Feng et al., 2020, "Can Cross Entropy Loss Be Robust to Label Noise?", IJCAI.
    """
    if order < 1:
        raise InputError(f"order is {order}: expected at least 1; pass a larger one")
    term = functools.partial(_taylor, order)
    return closed_form.of_label(term, logits, labels, axis=axis, where=where)


def phuber_ce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    tau: AtLeastOne = 10.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Partially Huberised cross entropy.

    .. math::
      L = \begin{cases} 1 + \log \tau - \tau p_y & p_y \le 1 / \tau \\
      -\log p_y & \text{otherwise} \end{cases}

    The derivative with respect to :math:`p_y` is the cross entropy's, clipped at
    :math:`\tau`. At ``tau = 1`` the loss is the mean absolute error; as ``tau`` grows,
    it becomes the cross entropy.

    Hyper-parameters:
      tau: at least 1; scalar or ``[...]``, may be traced. The paper uses 2 for CIFAR-10
        and 10 for CIFAR-100.

    Returns:
      The loss of each example, ``[...]``, between 0 and :math:`1 + \log \tau`.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> phuber_ce(logits, jnp.array([0, 1])).tolist()
      [0.17, 0.68]

    References:
      Menon et al., 2020, "Can gradient clipping mitigate label noise?", ICLR.
    """
    return closed_form.of_label(_phuber, logits, labels, (tau,), axis=axis, where=where)


def js(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pi: InnerFraction = 0.5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Jensen-Shannon divergence between label and prediction, scaled.

    With :math:`m = \pi y + (1 - \pi) p`,

    .. math::
      L = \frac{\pi \, \mathrm{KL}(y \| m) + (1 - \pi) \, \mathrm{KL}(p \| m)}
      {-(1 - \pi) \log(1 - \pi)}.

    As ``pi`` goes to 0 it becomes the cross entropy, as it goes to 1 the mean absolute
    error. The generalised form in the same paper adds a consistency term between two
    augmentations of an image. That is not a function of one example's logits, so it is
    not available here. The released code clamps probabilities and labels at 1e-6, which
    gives a wrong gradient for classes below that, and holds the divisor in single
    precision; docs/losses.md has the size of both.

    Hyper-parameters:
      pi: between 0 and 1, both excluded; scalar or ``[...]``, may be traced.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> js(logits, jnp.array([0, 1])).tolist()
      [0.166, 0.612]

    References:
      Englesson and Azizpour, 2021, arXiv:2105.04522.
    """
    if jnp.ndim(labels) == jnp.ndim(logits):
        return _js_of_distribution(logits, labels, pi, axis=axis, where=where)
    return closed_form.of_label(_js, logits, labels, (pi,), axis=axis, where=where)


def _taylor(order: int, log_p: jax.Array) -> jax.Array:
    rest = -jnp.expm1(log_p)
    series = jnp.zeros_like(rest)
    for power in reversed(range(1, order + 1)):
        series = rest * (series + 1 / power)
    return series


def _phuber(log_p: jax.Array, tau: jax.Array) -> jax.Array:
    log_tau = jnp.log(tau)
    hard = log_p <= -log_tau
    linear = 1 + log_tau - jnp.exp(jnp.where(hard, log_p, -log_tau) + log_tau)
    return jnp.where(hard, linear, -log_p)


def _js(log_p: jax.Array, pi: jax.Array) -> jax.Array:
    # Every class but the label has the same ratio p / m = 1 / (1 - pi).
    log_m = jnp.log1p((1 - pi) * jnp.expm1(log_p))
    log_other = jnp.log1p(-pi)
    p = jnp.exp(log_p)
    of_prediction = p * (log_p - log_m) + jnp.expm1(log_p) * log_other
    divergence = -pi * log_m + (1 - pi) * of_prediction
    return divergence / -((1 - pi) * log_other)


def _js_of_distribution(logits, labels, pi, *, axis, where):
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    pi = jnp.asarray(pi, logits.dtype)
    weight = jnp.expand_dims(pi, axis) if pi.ndim else pi
    log_p = log_space.log_probs(logits, axis)
    log_y = jnp.log(labels)
    log_m = jnp.logaddexp(jnp.log(weight) + log_y, jnp.log1p(-weight) + log_p)
    of_label = jnp.where(labels > 0, labels * (log_y - log_m), 0)
    of_prediction = jnp.exp(log_p) * (log_p - log_m)
    divergence = jnp.sum(weight * of_label + (1 - weight) * of_prediction, axis)
    return log_space.mask(divergence / -((1 - pi) * jnp.log1p(-pi)), where)
