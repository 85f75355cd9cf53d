r"""Normalised losses: a loss divided by its sum over all labels.

Ma et al. (2020), "Normalized Loss Functions for Deep Learning with Noisy Labels",
arXiv:2006.13554. For a loss :math:`a(\log p_y)`,

.. math::
  L = \frac{a(\log p_y)}{\sum_j a(\log p_j)},

so the sum of :math:`L` over all labels is 1 for every prediction. This makes the loss
symmetric and therefore robust, but it fits less well. That is why
:mod:`~dal_jax.losses.active_passive` adds other losses to these.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import InnerFraction, NonNegative
from dal_jax.losses import class_sums, log_space
from dal_jax.losses.closed_form import Term
from dal_jax.losses.focusing import focal_term


def nce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised cross entropy, :math:`\log p_y / \sum_k \log p_k`.

    This equals the released code, which clamps nothing here.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> nce(logits, jnp.array([0, 1])).tolist()
      [0.031, 0.192]
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    return log_space.mask(share_of_label(surprise, logits, labels, axis=axis), where)


def nfl(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: NonNegative = 0.5,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised focal loss.

    The :func:`~dal_jax.losses.focusing.focal` loss divided by its sum over all labels,

    .. math::
      L = \frac{(1 - p_y)^\gamma \log p_y}{\sum_k (1 - p_k)^\gamma \log p_k}.

    Hyper-parameters:
      gamma: at least 0, where 0 is :func:`nce`; 0.5 is the published value. Scalar;
        may be traced.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> nfl(logits, jnp.array([0, 1])).tolist()
      [0.013, 0.161]
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    share = share_of_label(focal_term, logits, labels, (gamma,), axis=axis)
    return log_space.mask(share, where)


def nnce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    min_probability: InnerFraction = 1e-7,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised negative cross entropy.

    .. math::
      L = 1 - \frac{A + \log p_y}{\sum_k (A + \log p_k)}, \qquad
      A = -\log p_\mathrm{min},

    a passive loss made from the cross entropy. Probabilities below
    :math:`p_\mathrm{min}` count as :math:`p_\mathrm{min}`, so a label below it has no
    gradient of its own. This clamp is part of the definition: without it the
    denominator may vanish.

    Hyper-parameters:
      min_probability: above 0 and below 1 / num_classes; scalar, may be traced.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> nnce(logits, jnp.array([0, 1])).tolist()
      [0.628, 0.656]
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    share = share_of_label(above_least, logits, labels, (min_probability,), axis=axis)
    return log_space.mask(1 - share, where)


def share_of_label(
    term: Term,
    logits: jax.Array,
    labels: jax.Array,
    parameters: tuple[Any, ...] = (),
    *,
    axis: int,
) -> jax.Array:
    """The given label's loss, divided by the sum over all labels."""
    own, total = class_sums.label_and_sum(term, logits, labels, parameters, axis=axis)
    return own / total


def surprise(log_p: jax.Array) -> jax.Array:
    """The term of the cross entropy."""
    return -log_p


def above_least(log_p: jax.Array, min_probability: jax.Array) -> jax.Array:
    """How far the log-probabilities are above the smallest that counts."""
    return jnp.maximum(log_p - jnp.log(min_probability), 0)
