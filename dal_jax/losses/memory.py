r"""Early-learning regularisation: staying close to what was learned first.

Liu et al. (2020), "Early-Learning Regularization Prevents Memorization of Noisy
Labels", arXiv:2007.00151. The caller keeps the targets of all examples in an array, so
both functions are pure. :func:`dal_jax.losses.make_stateful` combines them.
"""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import Fraction, NonNegative
from dal_jax.losses import log_space
from dal_jax.losses.class_sums import (
    apart,
    label_and_normalizer,
    log_p_of,
    normalizer,
    sum_over_classes,
)

# The released code bounds probabilities by this, so that no target reaches 1.
_LEAST = 1e-4


def elr(
    logits: ArrayLike,
    labels: ArrayLike,
    targets: ArrayLike,
    *,
    regularization_weight: NonNegative = 3.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Early-learning regularised cross entropy.

    .. math::
      L = -\log p_y + \lambda \log\left(1 - \sum_k p_k t_k\right)

    The second term falls without bound as prediction and target agree. Its gradient
    preserves what was learned early and reduces the weight of wrong labels.

    Args:
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``.
      targets: :math:`t`, ``[..., num_classes]``, at least 0 with a sum of at most 1,
        made by :func:`elr_targets`. No gradient flows to them.
      regularization_weight: :math:`\lambda`, at least 0; 0 is the cross entropy. Scalar
        or ``[...]``, may be traced.
      axis: the class axis of ``logits`` and ``targets``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> targets = elr_targets(logits, jnp.zeros((2, 3)))
      >>> elr(logits, jnp.array([0, 1]), targets).tolist()
      [-0.568, 0.311]
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    targets = jnp.asarray(targets, log_space.wide(logits))
    targets = jax.lax.stop_gradient(targets)
    chex.assert_equal_shape([logits, targets])
    if where is not None:
        targets = jnp.where(jnp.expand_dims(jnp.asarray(where), axis), targets, 0)
    log_p, top, log_total = label_and_normalizer(axis, logits, labels)
    disagreement = sum_over_classes(_disagreement, axis, (logits, targets), (top,))
    penalty = jnp.squeeze(jnp.log(disagreement) - log_total, axis)
    loss = jnp.multiply(regularization_weight, penalty) - log_p
    return log_space.mask(loss, where)


def _disagreement(logits, targets, top):
    # Not 1 - sum(p t), which loses everything where p and t agree.
    return jnp.exp(log_space.below(logits, top)) * (1 - targets)


def elr_targets(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    beta: Fraction = 0.7,
    axis: int = -1,
) -> jax.Array:
    r"""The targets of early-learning regularisation, moved towards the prediction.

    :math:`t \leftarrow \beta t + (1 - \beta) p`, with probabilities bounded to
    [1e-4, 1 - 1e-4] and rescaled to the sum 1, so that no target reaches 1. The
    released code computes the loss with them after this step.

    Args:
      logits: floating, ``[..., num_classes]``; no gradient flows through them.
      targets: the previous targets, ``[..., num_classes]``; zeros at the beginning.
      beta: between 0 (the targets are the last prediction) and 1 (they never move).
      axis: the class axis.

    Returns:
      The new targets, ``[..., num_classes]``, in their dtype.

    Example:
      >>> targets = elr_targets(jnp.array([2.0, 0.0, -1.0]), jnp.zeros(3))
      >>> targets.tolist()
      [0.253, 0.034, 0.013]
    """
    targets = jnp.asarray(targets)
    logits, axis = jax.lax.stop_gradient(jnp.asarray(logits)), axis % targets.ndim
    beta = jnp.asarray(beta, targets.dtype)
    rows = normalizer(axis, logits)
    total = sum_over_classes(_bounded, axis, (logits,), rows)
    mean = _bounded(logits, *apart(rows)) / total
    return (beta * targets + (1 - beta) * mean).astype(targets.dtype)


def _bounded(logits, *rows):
    return jnp.clip(jnp.exp(log_p_of(logits, *rows)), _LEAST, 1 - _LEAST)
