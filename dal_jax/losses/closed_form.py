r"""Losses of the label's log-probability, with their derivative in closed form.

Most losses of the family depend only on the log-probability of the given label,
:math:`\log p_y`. :func:`of_label` turns such a function of one number into a loss that
is validated, masked and computed in float32, with the closed-form derivative

.. math::
  \frac{\partial L}{\partial z_k} = f'(\log p_y) \, ([k = y] - p_k)
  - w \, p_k (\log p_k + H),

where the second term comes from an entropy that is added with weight :math:`w`. For
integer labels both come from :mod:`dal_jax.losses.softmax`, for distributions from the
log-probabilities of all classes. To add a loss of this kind, write ``_term(log_p,
*parameters)`` without clamps, use ``expm1`` and ``log1p`` so that it is accurate near
``log_p = 0``, and return ``of_label(_term, logits, labels, parameters, axis=axis,
where=where)``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dal_jax.losses import log_space
from dal_jax.losses.softmax import label_and_entropy

Term = Callable[..., jax.Array]


def of_label(
    term: Term,
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    parameters: tuple[Any, ...] = (),
    *,
    entropy_weight: jax.typing.ArrayLike | None = None,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The loss ``term(log p_y, *parameters) + entropy_weight * H(p)``.

    For distributions the first part is :math:`\sum_k y_k f(\log p_k)`.

    Args:
      term: elementwise and differentiable, ``(log_p, *parameters) -> loss``.
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]`` or distributions ``[..., num_classes]``.
      parameters: floats or float arrays that broadcast with ``[...]``.
      entropy_weight: float or array of the same kind; ``None`` adds no entropy.
      axis: the class axis of ``logits``.
      where: rows to keep, ``[...]``.

    Returns:
      The loss of each row, ``[...]``, in float32 (float64 for float64 logits).
    """
    logits, labels, axis = log_space.check(logits, labels, axis=axis, where=where)
    as_float = functools.partial(jnp.asarray, dtype=log_space.wide(logits))
    parameters = tuple(map(as_float, parameters))
    with_entropy = entropy_weight is not None
    if labels.ndim == logits.ndim:
        log_p = log_space.log_probs(logits.astype(log_space.wide(logits)), axis)
        entropy = log_space.entropy(log_p, axis) if with_entropy else None
        fit = functools.partial(_one_a_row, axis)
        loss = jnp.sum(labels * term(log_p, *map(fit, parameters)), axis)
    else:
        log_p, entropy = label_and_entropy(axis, with_entropy, logits, labels)
        loss = term(log_p, *parameters)
    if entropy is not None:
        loss += as_float(entropy_weight) * entropy
    return log_space.mask(loss, where)


def _one_a_row(axis: int, parameter: jax.Array) -> jax.Array:
    """Gives a parameter, a scalar or one per row, the rank of the logits."""
    return jnp.expand_dims(parameter, axis) if parameter.ndim else parameter
