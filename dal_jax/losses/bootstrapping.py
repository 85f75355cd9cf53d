r"""Bootstrapping: the label mixed with the network's own prediction.

Reed et al. (2014), "Training Deep Neural Networks on Noisy Labels with Bootstrapping",
arXiv:1412.6596.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import Fraction
from dal_jax.losses import closed_form, log_space
from dal_jax.losses.dal import ce


def soft_bootstrapping(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    beta: Fraction = 0.95,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy against a mix of label and prediction.

    .. math::
      L = -\sum_k (\beta y_k + (1 - \beta) p_k) \log p_k
      = \beta \, \mathrm{CE} + (1 - \beta) H(p),

    with the gradient flowing through both occurrences of :math:`p`.

    Hyper-parameters:
      beta: between 0 and 1; 1 is the cross entropy, 0.95 the published value. Scalar
        or ``[...]``, may be traced.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> soft_bootstrapping(logits, jnp.array([0, 1])).tolist()
      [0.188, 0.697]
    """
    beta = jnp.asarray(beta)
    return closed_form.of_label(
        _weighted_ce,
        logits,
        labels,
        (beta,),
        entropy_weight=1 - beta,
        axis=axis,
        where=where,
    )


def hard_bootstrapping(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    beta: Fraction = 0.8,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy against the label and the model's own most probable class.

    .. math::
      L = -\beta \log p_y - (1 - \beta) \log \max_k p_k

    Hyper-parameters:
      beta: between 0 and 1; 1 is the cross entropy, 0.8 the published value. Scalar
        or ``[...]``, may be traced.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> hard_bootstrapping(logits, jnp.array([0, 1])).tolist()
      [0.17, 0.68]
    """
    given = ce(logits, labels, axis=axis, where=where)
    logits, _, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    believed = log_space.mask(log_space.ce_of_top(logits, axis), where)
    beta = jnp.asarray(beta)
    return beta * given + (1 - beta) * believed


def _weighted_ce(log_p: jax.Array, beta: jax.Array) -> jax.Array:
    return -beta * log_p
