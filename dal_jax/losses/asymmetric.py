r"""Asymmetric losses, robust wherever the true label outweighs each wrong one.

Zhou et al. (2021), "Asymmetric Loss Functions for Learning with Noisy Labels",
arXiv:2106.03110. Each is a function of the label's probability alone.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import AboveOne, NonNegative, Positive
from dal_jax.losses import closed_form
from dal_jax.losses.dal import gce_term


def agce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: NonNegative = 0.6,
    q: NonNegative = 0.6,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Asymmetric generalized cross entropy.

    .. math::
      L = \frac{(a + 1)^q - (a + p_y)^q}{q}

    At ``a = 0`` it is the generalized cross entropy of the same ``q``, at ``q = 1`` the
    mean absolute error, and as ``q`` goes to 0 it becomes
    :math:`\log \frac{a + 1}{a + p_y}`. Equal to the released code, which clamps nothing
    here.

    Hyper-parameters:
      a: at least 0; larger is closer to a multiple of the mean absolute error.
      q: at least 0. Both are scalar or ``[...]`` and may be traced.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> agce(logits, jnp.array([0, 1])).tolist()
      [0.132, 0.439]
    """
    return closed_form.of_label(_agce, logits, labels, (a, q), axis=axis, where=where)


def aul(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: AboveOne = 5.5,
    q: Positive = 3.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Asymmetric unhinged loss.

    .. math::
      L = \frac{(a - p_y)^q - (a - 1)^q}{q}

    At ``q = 1`` it is the mean absolute error; as ``a`` grows, it becomes a multiple of
    it. The derivative by :math:`p_y` is :math:`-(a - p_y)^{q - 1}`, at the published
    values 20 to 30 times the mean absolute error's. The authors clip the global norm of
    the gradient at 5. With a learning rate chosen for cross entropy you may need a
    smaller bound (``--config.optimizer.clip_norm``).

    Hyper-parameters:
      a: above 1.
      q: above 0. Both are scalar or ``[...]`` and may be traced.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> aul(logits, jnp.array([0, 1])).tolist()
      [3.274, 11.13]
    """
    return closed_form.of_label(_aul, logits, labels, (a, q), axis=axis, where=where)


def ael(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: Positive = 2.5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Asymmetric exponential loss, :math:`e^{-p_y / a}`.

    As ``a`` grows, :math:`a (L - 1) + 1` becomes the mean absolute error.

    Hyper-parameters:
      a: above 0; scalar or ``[...]``, may be traced.

    Returns:
      The loss of each example, ``[...]``, between :math:`e^{-1/a}` and 1.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> ael(logits, jnp.array([0, 1])).tolist()
      [0.714, 0.817]
    """
    return closed_form.of_label(_ael, logits, labels, (a,), axis=axis, where=where)


def _agce(log_p: jax.Array, a: jax.Array, q: jax.Array) -> jax.Array:
    # One form is exact when p is near 1, the other when p is tiny compared with a.
    easy = log_p > -1
    near = jnp.log1p(jnp.expm1(jnp.where(easy, log_p, 0)) / (1 + a))
    far = jnp.logaddexp(jnp.where(easy, -1, log_p), jnp.log(a)) - jnp.log1p(a)
    return (1 + a) ** q * gce_term(jnp.where(easy, near, far), q)


def _aul(log_p: jax.Array, a: jax.Array, q: jax.Array) -> jax.Array:
    log_ratio = jnp.log1p(-jnp.expm1(log_p) / (a - 1))
    return (a - 1) ** q * jnp.expm1(q * log_ratio) / q


def _ael(log_p: jax.Array, a: jax.Array) -> jax.Array:
    return jnp.exp(-jnp.exp(log_p) / a)
