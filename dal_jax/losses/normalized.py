r"""Normalised losses, which any loss becomes when divided by its sum over the labels.

Ma et al. (2020), "Normalized Loss Functions for Deep Learning with Noisy Labels",
arXiv:2006.13554. For a loss :math:`a(\log p_y)`,

.. math::
  L = \frac{a(\log p_y)}{\sum_j a(\log p_j)},

so that the sum of :math:`L` over all labels is 1 whatever the prediction: symmetric,
and by that robust, yet it fits less well. :mod:`~dal_jax.losses.active_passive` adds
these losses to others for that reason.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dal_jax.losses import log_space
from dal_jax.losses.focusing import focal_term


def of_all_labels(
    term: log_space.Term,
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    parameters: tuple = (),
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The loss ``term(log p_y, *parameters)`` over its sum over all labels.

    For distributions the numerator is the average under them. The arguments are those
    of :func:`dal_jax.losses.log_space.of_label`, but ``parameters`` are scalars.

    With :math:`S` the sum over the labels, the derivative is

    .. math::
      \frac{\partial L}{\partial z_k} = u_k - p_k \sum_j u_j, \qquad
      u_k = \frac{[k = y] \, a'(\log p_y) - L \, a'(\log p_k)}{S}.
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    parameters = tuple(jnp.asarray(p, logits.dtype) for p in parameters)
    of_rows = _share if labels.ndim == logits.ndim else _share_of_label
    return log_space.mask(of_rows(term, axis, logits, labels, parameters), where)


def _share(
    term: log_space.Term,
    axis: int,
    logits: jax.Array,
    labels: jax.Array,
    parameters: tuple[jax.Array, ...],
) -> jax.Array:
    values = term(log_space.log_probs(logits, axis), *parameters)
    return log_space.select_label(values, labels, axis) / jnp.sum(values, axis)


_share_of_label = jax.custom_jvp(_share, nondiff_argnums=(0, 1))


@functools.partial(_share_of_label.defjvp, symbolic_zeros=True)
def _share_of_label_jvp(term, axis, primals, tangents):
    logits, labels, parameters = primals
    d_logits, _, d_parameters = tangents
    log_p = log_space.log_probs(logits, axis)
    values, slopes = jax.jvp(
        lambda log_p: term(log_p, *parameters), (log_p,), (jnp.ones_like(log_p),)
    )
    total = jnp.sum(values, axis, keepdims=True)
    loss = log_space.select_label(values, labels, axis) / jnp.squeeze(total, axis)

    def along(direction):
        share = jnp.expand_dims(loss, axis) * direction
        return (_at_label(direction, labels, axis) - share) / total

    tangent = jnp.zeros_like(loss)
    if not isinstance(d_logits, SymbolicZero):
        inner = along(slopes)
        slope = inner - jnp.exp(log_p) * jnp.sum(inner, axis, keepdims=True)
        tangent += jnp.sum(slope * d_logits, axis)
    for place, d_parameter in enumerate(d_parameters):
        if isinstance(d_parameter, SymbolicZero):
            continue

        def at(parameter, place=place):
            changed = (*parameters[:place], parameter, *parameters[place + 1 :])
            return term(log_p, *changed)

        _, direction = jax.jvp(at, (parameters[place],), (d_parameter,))
        tangent += jnp.sum(along(direction), axis)
    return loss, tangent


def _at_label(values: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    return jnp.where(log_space.one_hot(labels, values.shape, axis), values, 0)


def nce(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised cross entropy, :math:`\log p_y / \sum_k \log p_k`.

    Equal to the released code, which clamps nothing here.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``, under which
        the loss is averaged.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> print(np.array(nce(logits, jnp.array([0, 1]))).round(3))
      [0.031 0.192]

    References:
      Ma et al., 2020, arXiv:2006.13554.
    """
    return of_all_labels(_ce, logits, labels, axis=axis, where=where)


def nfl(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    gamma: jax.typing.ArrayLike = 0.5,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised focal loss.

    The :func:`~dal_jax.losses.focusing.focal` loss over its sum over all labels,

    .. math::
      L = \frac{(1 - p_y)^\gamma \log p_y}{\sum_k (1 - p_k)^\gamma \log p_k}.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``, under which
        the loss is averaged.
      gamma: at least 0, where 0 is :func:`nce`; 0.5 is the published value. Scalar;
        may be traced.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> print(np.array(nfl(logits, jnp.array([0, 1]))).round(3))
      [0.013 0.161]

    References:
      Ma et al., 2020, arXiv:2006.13554.
    """
    return of_all_labels(focal_term, logits, labels, (gamma,), axis=axis, where=where)


def nnce(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    min_probability: jax.typing.ArrayLike = 1e-7,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised negative cross entropy.

    .. math::
      L = 1 - \frac{A + \log p_y}{\sum_k (A + \log p_k)}, \qquad
      A = -\log p_\mathrm{min},

    a passive loss made from the cross entropy. Probabilities below
    :math:`p_\mathrm{min}` count as :math:`p_\mathrm{min}`: that is part of the
    definition, without which the denominator may vanish, and such a label has no
    gradient of its own.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``, under which
        the loss is averaged.
      min_probability: above 0 and below 1 / num_classes; scalar, may be traced.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> print(np.array(nnce(logits, jnp.array([0, 1]))).round(3))
      [0.628 0.656]

    References:
      Ye et al., 2023, "Active Negative Loss Functions for Learning with Noisy Labels",
      NeurIPS.
    """
    share = of_all_labels(
        _negative, logits, labels, (min_probability,), axis=axis, where=where
    )
    return log_space.mask(1 - share, where)


def _ce(log_p: jax.Array) -> jax.Array:
    return -log_p


def _negative(log_p: jax.Array, min_probability: jax.Array) -> jax.Array:
    return jnp.maximum(log_p - jnp.log(min_probability), 0)
