r"""Focal loss: cross entropy with less weight on easy examples.

It was made for rare classes, not for noise, and is less robust than cross entropy. It
is here as part of the normalised focal loss, and for comparison.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from dal_jax.hyperparameters import NonNegative
from dal_jax.losses import closed_form


def focal(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: NonNegative = 0.5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Focal loss, :math:`-(1 - p_y)^\gamma \log p_y`.

    Hyper-parameters:
      gamma: at least 0; 0 is the cross entropy, larger values give easy examples less
        weight. Scalar or ``[...]``; may be traced.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> focal(logits, jnp.array([0, 1])).tolist()
      [0.067, 0.478]

    References:
      Lin et al., 2017, arXiv:1708.02002.
    """
    return closed_form.of_label(
        focal_term, logits, labels, (gamma,), axis=axis, where=where
    )


@jax.custom_jvp
def focal_term(log_p: jax.Array, gamma: jax.Array) -> jax.Array:
    r"""Returns :math:`-(1 - p)^\gamma \log p`."""
    return -_power(_rest(log_p), gamma) * log_p


@functools.partial(focal_term.defjvp, symbolic_zeros=True)
def _focal_term_jvp(primals, tangents):
    log_p, gamma = primals
    d_log_p, d_gamma = tangents
    rest = _rest(log_p)
    power = _power(rest, gamma)
    tangent = jnp.zeros(jnp.broadcast_shapes(log_p.shape, gamma.shape), log_p.dtype)
    if not isinstance(d_log_p, SymbolicZero):
        # log(p) / (1 - p) tends to -1 as p tends to 1; autodiff would give 0 * inf.
        tangent += power * (gamma * (1 - rest) * (log_p / rest) - 1) * d_log_p
    if not isinstance(d_gamma, SymbolicZero):
        tangent -= power * log_p * jnp.log(rest) * d_gamma
    return -power * log_p, tangent


def _rest(log_p: jax.Array) -> jax.Array:
    r""":math:`1 - p`, bounded below by less than any nonzero difference."""
    # A log-probability near 0 is no more exact than this; expm1 would be slower.
    return jnp.maximum(1 - jnp.exp(log_p), jnp.finfo(log_p.dtype).eps ** 2)


def _power(rest: jax.Array, gamma: jax.Array) -> jax.Array:
    # Faster than a power, which also handles zero and negative numbers.
    return jnp.exp(gamma * jnp.log(rest))
