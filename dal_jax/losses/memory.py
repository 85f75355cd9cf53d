r"""Early-learning regularisation: staying close to what was learned first.

Liu et al. (2020), "Early-Learning Regularization Prevents Memorization of Noisy
Labels", arXiv:2007.00151. The targets of all examples are an array that the caller
keeps, so both functions are pure; :func:`dal_jax.losses.make_stateful` joins them.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from dal_jax.losses import log_space
from dal_jax.losses.dal import ce

# The released code's bound on what enters a target; no target reaches 1 by it.
_LEAST = 1e-4


def elr(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    regularization_weight: jax.typing.ArrayLike = 3.0,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Early-learning regularised cross entropy.

    .. math::
      L = -\log p_y + \lambda \log\left(1 - \sum_k p_k t_k\right)

    The second term falls without bound as prediction and target agree; its gradient
    keeps examples that were learned early, and takes weight from wrong labels.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``.
      targets: :math:`t`, ``[..., num_classes]``, at least 0 with a sum below 1 or at
        most 1; no gradient flows to them. Made by :func:`elr_targets`.
      regularization_weight: :math:`\lambda`, at least 0; 0 is the cross entropy. Scalar
        or ``[...]``, may be traced.
      axis: the class axis of ``logits`` and ``targets``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> targets = elr_targets(logits, jnp.zeros((2, 3)))
      >>> print(np.array(elr(logits, jnp.array([0, 1]), targets)).round(3))
      [-0.568  0.311]

    References:
      Liu et al., 2020, arXiv:2007.00151, equation 6.
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    targets = jax.lax.stop_gradient(jnp.asarray(targets, logits.dtype))
    chex.assert_equal_shape([logits, targets])
    if where is not None:
        targets = jnp.where(jnp.expand_dims(jnp.asarray(where), axis), targets, 0)
    weight = jnp.asarray(regularization_weight, logits.dtype)
    agreement = _log_disagreement(axis, logits, targets)
    fit = ce(logits, labels, axis=axis)
    return log_space.mask(fit + weight * agreement, where)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_disagreement(axis: int, logits: jax.Array, targets: jax.Array) -> jax.Array:
    return _disagreement(axis, logits, targets)[0]


@_log_disagreement.defjvp
def _log_disagreement_jvp(axis, primals, tangents):
    logits, targets = primals
    value, exps, share, total = _disagreement(axis, logits, targets)
    gradient = exps * (1 / share - 1 / total - targets * (1 / share))
    return value, jnp.sum(gradient * tangents[0], axis)


def _disagreement(axis, logits, targets):
    top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    exps = jnp.exp(logits - top)
    # As a sum of p - p t, which loses nothing where p and t agree.
    share = jnp.sum(exps - exps * targets, axis, keepdims=True)
    total = jnp.sum(exps, axis, keepdims=True)
    value = jnp.log(share) - jnp.log(total)
    return jnp.squeeze(value, axis), exps, share, total


def elr_targets(
    logits: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    beta: jax.typing.ArrayLike = 0.7,
    axis: int = -1,
) -> jax.Array:
    r"""The targets of early-learning regularisation, moved towards the prediction.

    :math:`t \leftarrow \beta t + (1 - \beta) p`, with probabilities bounded to
    [1e-4, 1 - 1e-4] and rescaled to the sum 1, so that no target reaches 1. The
    released code computes the loss with them after this step.

    Args:
      logits: floating, ``[..., num_classes]``; no gradient flows through them.
      targets: those of the last time, ``[..., num_classes]``; zeros at the beginning.
      beta: between 0, the last prediction alone, and 1, targets that never move.
      axis: the class axis.

    Returns:
      The new targets, ``[..., num_classes]``, in their dtype.

    Example:
      >>> import numpy as np
      >>> targets = elr_targets(jnp.array([2.0, 0.0, -1.0]), jnp.zeros(3))
      >>> print(np.array(targets).round(3))
      [0.253 0.034 0.013]
    """
    targets = jnp.asarray(targets)
    logits = jax.lax.stop_gradient(jnp.asarray(logits)).astype(targets.dtype)
    beta = jnp.asarray(beta, targets.dtype)
    exps = jnp.exp(logits - jnp.max(logits, axis, keepdims=True))
    total = jnp.sum(exps, axis, keepdims=True)
    least, most = _LEAST * total, (1 - _LEAST) * total
    bounded = jnp.clip(exps, least, most)
    # Halved, because XLA's CPU backend would write out what the targets have too.
    half = jnp.clip(exps / 2, least / 2, most / 2)
    whole = 2 * jnp.sum(half, axis, keepdims=True)
    # The select, which is always true, ends the kernel of the sum: XLA's CPU backend
    # would give it the writing of the targets too, at which it is slow.
    share = jnp.where(whole > 0, (1 - beta) / whole, jnp.nan)
    return beta * targets + share * bounded
