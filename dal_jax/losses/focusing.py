r"""Focal loss: cross entropy that looks away from easy examples.

Made for rare classes, not for noise, and less robust than cross entropy; it is here as
the ingredient of the normalised focal loss, and to compare with.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dal_jax.losses import closed_form


def focal(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    gamma: jax.typing.ArrayLike = 0.5,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Focal loss, :math:`-(1 - p_y)^\gamma \log p_y`.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``, under which
        the loss is averaged.
      gamma: at least 0; 0 is the cross entropy, larger values look away from easy
        examples sooner. Scalar or ``[...]``; may be traced.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> print(np.array(focal(logits, jnp.array([0, 1]))).round(3))
      [0.067 0.478]

    References:
      Lin et al., 2017, arXiv:1708.02002.
    """
    return closed_form.of_label(
        focal_term, logits, labels, (gamma,), axis=axis, where=where
    )


@jax.custom_jvp
def focal_term(log_p: jax.Array, gamma: jax.Array) -> jax.Array:
    r"""Returns :math:`-(1 - p)^\gamma \log p`."""
    return -((-jnp.expm1(log_p)) ** gamma) * log_p


@functools.partial(focal_term.defjvp, symbolic_zeros=True)
def _focal_term_jvp(primals, tangents):
    log_p, gamma = primals
    d_log_p, d_gamma = tangents
    rest = -jnp.expm1(log_p)
    power = rest**gamma
    sure = rest == 0
    tangent = jnp.zeros(jnp.broadcast_shapes(log_p.shape, gamma.shape), log_p.dtype)
    if not isinstance(d_log_p, SymbolicZero):
        # log(p) / (1 - p) goes to -1 where p goes to 1, and autodiff to 0 * inf.
        ratio = jnp.where(sure, -1, log_p / jnp.where(sure, 1, rest))
        tangent += power * (gamma * (1 - rest) * ratio - 1) * d_log_p
    if not isinstance(d_gamma, SymbolicZero):
        tangent -= power * log_p * jnp.log(jnp.where(sure, 1, rest)) * d_gamma
    return -power * log_p, tangent
