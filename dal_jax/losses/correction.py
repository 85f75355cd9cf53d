r"""Loss correction by the transition matrix of the noise.

Patrini et al. (2017), "Making Deep Neural Networks Robust to Label Noise: a Loss
Correction Approach", arXiv:1609.03683. ``transition_matrix[i, j]`` is the probability
that an example of class ``i`` is given the label ``j``; rows sum to 1. Instead of a
matrix you can give ``noise_rate``, which assumes symmetric noise that redraws the label
uniformly over all classes with that probability, like :func:`dal_jax.noise.symmetric`.
"""

from typing import Annotated, Any

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.errors import InputError
from dal_jax.hyperparameters import Range
from dal_jax.losses import closed_form, log_space

Rate = Annotated[ArrayLike | None, Range(0, 1, ")")]


def forward_correction(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    transition_matrix: ArrayLike | None = None,
    noise_rate: Rate = None,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy of the noisy label under the prediction after the same noise.

    .. math::
      L = -\log \sum_i T_{iy} \, p_i

    The network itself learns to predict the true class. Computed in log space.

    Args:
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]``; with ``noise_rate`` also distributions
        ``[..., num_classes]``, under which the loss is averaged.
      transition_matrix: :math:`T`, ``[num_classes, num_classes]``; a label that no
        class can receive has an infinite loss.
      noise_rate: between 0, the cross entropy, and 1, excluded; scalar. Exactly one of
        the two is given.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Raises:
      InputError: if not exactly one of matrix and rate is given.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> loss = forward_correction(logits, jnp.array([0, 1]), noise_rate=0.4)
      >>> loss.tolist()
      [0.447, 0.827]
    """
    require_one(noise_rate, transition_matrix)
    if transition_matrix is None:
        num_classes = jnp.shape(logits)[axis]
        return closed_form.of_label(
            _under_rate,
            logits,
            labels,
            (noise_rate, num_classes),
            axis=axis,
            where=where,
        )
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    chex.assert_rank(labels, logits.ndim - 1)
    of_label = _rows(jnp.asarray(transition_matrix).T, labels, logits, axis)
    log_p = log_space.log_probs(logits, axis)
    return log_space.mask(-jax.nn.logsumexp(jnp.log(of_label) + log_p, axis), where)


def backward_correction(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    transition_matrix: ArrayLike | None = None,
    noise_rate: Rate = None,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy, made unbiased by the inverse of the transition matrix.

    .. math::
      L = -\sum_k (T^{-1})_{yk} \log p_k

    Its mean over the noisy labels is the cross entropy of the clean one. The inverse
    has negative entries, so a label's loss becomes negative once the network is sure of
    it, and is unbounded below. A network that memorises lowers it without end, while
    its logits and gradients grow. The authors' code clamps probabilities at 1e-7,
    beyond which the gradient vanishes. Here the gradient stays exact, so you should
    clip its global norm (``--config.optimizer.clip_norm``).

    Args:
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]``.
      transition_matrix: :math:`T`, ``[num_classes, num_classes]``, invertible.
      noise_rate: between 0, the cross entropy, and 1, excluded; scalar. Exactly one of
        the two is given.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``.

    Raises:
      InputError: if not exactly one of matrix and rate is given.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> loss = backward_correction(logits, jnp.array([0, 1]), noise_rate=0.4)
      >>> loss.tolist()
      [-0.941, 0.347]
    """
    require_one(noise_rate, transition_matrix)
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    chex.assert_rank(labels, logits.ndim - 1)
    log_p = log_space.log_probs(logits, axis)
    if transition_matrix is None:
        rate = jnp.asarray(noise_rate, logits.dtype)
        own = log_space.select_label(log_p, labels, axis)
        unbiased = (own - rate * jnp.mean(log_p, axis)) / (1 - rate)
        return log_space.mask(-unbiased, where)
    inverse = jnp.linalg.inv(jnp.asarray(transition_matrix, logits.dtype))
    weights = _rows(inverse, labels, logits, axis)
    return log_space.mask(-jnp.sum(weights * log_p, axis), where)


def require_one(noise_rate: Any, transition_matrix: Any) -> None:
    """Raises InputError unless exactly one of the two is given."""
    if (transition_matrix is None) == (noise_rate is None):
        raise InputError(
            "loss correction needs to know the noise: expected exactly one of "
            "noise_rate (symmetric noise) and transition_matrix; give one"
        )


def _rows(
    matrix: jax.Array, labels: jax.Array, logits: jax.Array, axis: int
) -> jax.Array:
    chex.assert_shape(matrix, (logits.shape[axis],) * 2)
    return jnp.moveaxis(matrix.astype(logits.dtype)[labels], -1, axis)


def _under_rate(log_p: jax.Array, rate: jax.Array, num_classes: jax.Array) -> jax.Array:
    return -jnp.logaddexp(jnp.log1p(-rate) + log_p, jnp.log(rate / num_classes))
