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
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from dal_jax.losses import closed_form, log_space
from dal_jax.losses.summation import below, half_below, sums_over_classes

Term = Callable[..., tuple[jax.Array, jax.Array | float]]


def of_all_labels(
    terms: Sequence[tuple[Term, tuple]],
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    weights: Sequence[jax.typing.ArrayLike] = (1.0,),
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""A weighted sum of losses :math:`a(\log p_y)`, each over its sum over all labels.

    Of each ``(term, parameters)``, ``term(log_p, 1 - p, *parameters)`` returns
    :math:`a` and its derivative by :math:`\log p`, elementwise, for :math:`1 - p` above
    0; a derivative that is the same everywhere as a Python number. ``parameters`` are
    scalars, ``weights`` scalars or ``[...]``. For distributions the numerator is the
    average under them. The other arguments are those of
    :func:`dal_jax.losses.closed_form.of_label`.

    With :math:`S` the sum over the labels, the derivative of one of them is

    .. math::
      \frac{\partial L}{\partial z_k} = u_k - p_k \sum_j u_j, \qquad
      u_k = \frac{[k = y] \, a'(\log p_y) - L \, a'(\log p_k)}{S}.
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    as_float = functools.partial(jnp.asarray, dtype=logits.dtype)
    functions = tuple(term for term, _ in terms)
    coefficients = (
        tuple(map(as_float, weights)),
        tuple(tuple(map(as_float, parameters)) for _, parameters in terms),
    )
    of_rows = _shares if labels.ndim == logits.ndim else _shares_of_label
    return log_space.mask(of_rows(axis, functions, logits, labels, coefficients), where)


def _shares(
    axis: int,
    terms: tuple[Term, ...],
    logits: jax.Array,
    labels: jax.Array,
    coefficients: tuple,
) -> jax.Array:
    log_p = log_space.log_probs(logits, axis)
    rest = _rest(log_p)

    def share(term, parameters):
        values, _ = term(log_p, rest, *parameters)
        return log_space.select_label(values, labels, axis) / jnp.sum(values, axis)

    shares = [
        weight * share(term, parameters)
        for term, weight, parameters in zip(terms, *coefficients, strict=True)
    ]
    return functools.reduce(jnp.add, shares)


def _with_gradient(axis, terms, logits, labels, coefficients):
    softmax = closed_form.Softmax(logits, labels, axis, with_entropy=False)
    widen = softmax.widen
    log_p = softmax.finite_shifted() - widen(softmax.log_total)
    rest = _rest_of(softmax.exps * widen(1 / softmax.total))
    rest_y = _rest(softmax.log_p)
    loss = own = along = jnp.zeros_like(softmax.log_p)
    others = widen(loss)
    for term, weight, parameters in zip(terms, *coefficients, strict=True):
        _, slopes = term(log_p, rest, *parameters)
        value, slope = term(softmax.log_p, rest_y, *parameters)
        total, slopes_sum = _sums(term, logits, softmax, parameters)
        share, weight = value / total, weight / total
        loss += weight * value
        own += weight * slope
        along += weight * (slope - share * slopes_sum)
        others += widen(weight * share) * slopes
    labelled = log_space.one_hot(labels, logits.shape, axis)
    gradient = jnp.where(labelled, widen(own), 0) - others
    return loss, gradient - widen(along / softmax.total) * softmax.exps


_shares_of_label = closed_form.with_gradient(_shares, _with_gradient)


def _sums(
    term: Term,
    logits: jax.Array,
    softmax: closed_form.Softmax,
    parameters: tuple[jax.Array, ...],
) -> tuple[jax.Array, jax.Array | float]:
    """Of the term and of its derivative over the classes."""
    axis, widen = softmax.axis, softmax.widen
    top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    log_total = widen(softmax.log_total)
    # Halved, because XLA's CPU backend would write out what the gradient has too.
    log_p = 2 * (half_below(logits, top) - log_total / 2)
    values, slope = term(log_p, _rest_of(jnp.exp(log_p)), *parameters)
    if isinstance(slope, float):
        return jnp.sum(values, axis), slope * logits.shape[axis]
    total, slopes = sums_over_classes(
        functools.partial(_mixed, term),
        # Left out where it is not needed, since what a loop takes is written out.
        (logits, softmax.exps if term in _OF_REST else jnp.zeros_like(top)),
        (top, log_total, widen(1 / softmax.total), *parameters),
        tuple(jnp.eye(2, dtype=logits.dtype)),
        axis,
    )
    return jnp.squeeze(total, axis), jnp.squeeze(slopes, axis)


def _mixed(
    term: Term,
    logits: jax.Array,
    exps: jax.Array,
    top: jax.Array,
    log_total: jax.Array,
    scale: jax.Array,
    *others: jax.Array,
) -> jax.Array:
    """A combination of the term and its derivative."""
    *parameters, of_value, of_slope = others
    log_p = below(logits, top) - log_total
    value, slope = term(log_p, _rest_of(exps * scale), *parameters)
    mixed = of_value * value + of_slope * slope
    # Of so many operations XLA's own kernel, which the select asks for, is faster than
    # the library that takes sums and what feeds them.
    return jnp.where(logits == logits, mixed, logits)


def _rest(log_p: jax.Array) -> jax.Array:
    r""":math:`1 - p`, and its limit :math:`-\log p` where it rounds to 0."""
    rest = -jnp.expm1(log_p)
    return jnp.where(rest > 0, rest, jnp.maximum(-log_p, jnp.finfo(rest.dtype).tiny))


def _rest_of(p: jax.Array) -> jax.Array:
    """:math:`1 - p` for all classes, where it need not be exact: fewer operations."""
    return jnp.maximum(1 - p, jnp.finfo(p.dtype).eps / 4)


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
    return of_all_labels([(ce_term, ())], logits, labels, axis=axis, where=where)


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
    published = isinstance(gamma, float) and gamma == 0.5
    term = (_focal_of_half, ()) if published else (_focal, (gamma,))
    return of_all_labels([term], logits, labels, axis=axis, where=where)


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
    term = (nnce_term, (min_probability,))
    share = of_all_labels([term], logits, labels, axis=axis, where=where)
    return log_space.mask(1 - share, where)


def ce_term(log_p: jax.Array, rest: jax.Array) -> tuple[jax.Array, float]:
    r""":math:`-\log p`, and its slope."""
    del rest
    return -log_p, -1.0


def _focal(
    log_p: jax.Array, rest: jax.Array, gamma: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # Several times faster than a power.
    return _focal_with(jnp.exp((gamma - 1) * jnp.log(rest)), log_p, rest, gamma)


def _focal_of_half(log_p: jax.Array, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _focal_with(jax.lax.rsqrt(rest), log_p, rest, 0.5)


def _focal_with(power, log_p, rest, gamma):
    return -power * rest * log_p, power * (gamma * (1 - rest) * log_p - rest)


def nnce_term(
    log_p: jax.Array, rest: jax.Array, min_probability: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r""":math:`\max(\log p - \log p_\mathrm{min}, 0)`, and its slope."""
    del rest
    value = jnp.maximum(log_p - jnp.log(min_probability), 0)
    return value, jnp.sign(jax.lax.stop_gradient(value))


# The terms that look at 1 - p.
_OF_REST = (_focal, _focal_of_half)
