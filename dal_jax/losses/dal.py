"""Dynamics-Aware Loss and its special cases, each an unreduced pure function.

Li et al. (2023), "Dynamics-Aware Loss for Learning with Label Noise", Pattern
Recognition, arXiv:2303.11562.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike

from dal_jax.errors import unknown_name
from dal_jax.hyperparameters import NonNegative
from dal_jax.losses import closed_form, log_space
from dal_jax.schedules import CIFAR_SCHEDULE, Schedule

Bootstrap = Literal["soft", "hard"]


def dal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    step: ArrayLike,
    *,
    schedule: Schedule = CIFAR_SCHEDULE,
    bootstrap: Bootstrap = "soft",
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Dynamics-Aware Loss at one step of a training run.

    Without a schedule, ``dal_loss(logits, labels, step)`` follows the released CIFAR
    recipe: 150 epochs of 391 steps, :math:`q` from 0.6 towards 1.5, constant within an
    epoch. For a run of another length, pass its schedule:
    ``functools.partial(dal_loss, schedule=dal_schedule(my_steps))``.

    .. math::
      L_t = \frac{1 - p_y^{q_t}}{q_t} + \lambda_t \frac{H(p)}{q_t \log K}

    Args:
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``.
      step: the training step, from 0; may be traced, so a new step compiles nothing.
      schedule: step to :class:`~dal_jax.schedules.DALCoefficients`.
      bootstrap: ``"soft"`` or ``"hard"``, see :func:`dal_objective`.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``; the caller takes the mean.

    Raises:
      InputError: if ``bootstrap`` is not a known name.

    Example:
      >>> import functools
      >>> from dal_jax.schedules import dal_schedule
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> labels = jnp.array([0, 1])
      >>> dal_loss(logits, labels, 0).tolist()
      [0.161, 0.559]
      >>> loss = functools.partial(dal_loss, schedule=dal_schedule(1_000))
      >>> loss(logits, labels, 1_000).tolist()
      [0.468, 1.045]

    References:
      Li et al., 2023, arXiv:2303.11562.
    """
    q, weight = schedule(step)
    return dal_objective(
        logits, labels, q, weight, bootstrap=bootstrap, axis=axis, where=where
    )


def dal_objective(
    logits: ArrayLike,
    labels: ArrayLike,
    q: ArrayLike,
    bootstrap_weight: ArrayLike,
    *,
    bootstrap: Bootstrap = "soft",
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Dynamics-Aware Loss at given parameters, without its schedule.

    .. math::
      L = \frac{1 - p_y^q}{q} + \lambda \frac{B(p)}{q \log K}, \qquad
      p = \mathrm{softmax}(z)

    where :math:`B` is the entropy of the prediction (``"soft"``) or the cross entropy
    against the model's own most probable class, which counts as constant in the
    derivative (``"hard"``, as in the first upload of the released code). Both lie in
    :math:`[0, \log K]`. In the limit :math:`q \to 0` the first term is the cross
    entropy; ``q = 0`` computes this limit, without bootstrapping. At ``q = 1`` the
    first term is the mean absolute error. Everything is computed in log space, so an
    example of probability ``1e-30`` keeps its true gradient

    .. math::
      \frac{\partial L}{\partial z_k} = p_y^q \, (p_k - [k = y])
      - \frac{\lambda}{q \log K} \, p_k (\log p_k + H).

    For distributions over the classes the first term is
    :math:`\sum_k y_k (1 - p_k^q) / q`.

    Args:
      logits: floating, ``[..., num_classes]``, at least two classes.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``.
      q: at least 0; larger is more robust and fits less. Scalar or ``[...]``.
      bootstrap_weight: :math:`\lambda`, at least 0. Scalar or ``[...]``.
      bootstrap: ``"soft"`` or ``"hard"``.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    ``q`` and ``bootstrap_weight`` may be traced and differentiated.

    Returns:
      The loss of each example, ``[...]``, float32 (float64 for float64 logits).

    Raises:
      InputError: if ``bootstrap`` is not a known name.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> dal_objective(logits, jnp.array([0, 1]), 1.2, 0.5).tolist()
      [0.352, 0.852]

    References:
      Li et al., 2023, arXiv:2303.11562; Zhang and Sabuncu, 2018, arXiv:1805.07836.
    """
    if bootstrap not in get_args(Bootstrap):
        raise unknown_name("bootstrap", bootstrap, get_args(Bootstrap))
    num_classes = jnp.shape(logits)[axis]
    if num_classes < 2:
        raise AssertionError(f"logits must hold two classes or more, got {num_classes}")
    q, bootstrap_weight = jnp.asarray(q), jnp.asarray(bootstrap_weight)
    # At q = 0 there is no bootstrapping: dividing by q would fail, and DAL's schedule
    # has weight zero below q = 1 anyway.
    weight = bootstrap_weight / jnp.where(q == 0, 1, q) / math.log(num_classes)
    weight = jnp.where(q == 0, 0, weight)
    soft = bootstrap == "soft"
    loss = closed_form.of_label(
        gce_term,
        logits,
        labels,
        (q,),
        entropy_weight=weight if soft else None,
        axis=axis,
        where=where,
    )
    if soft:
        return loss
    logits, _, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    return loss + weight * log_space.mask(log_space.ce_of_top(logits, axis), where)


def gce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    q: NonNegative = 0.7,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Generalized cross entropy, :math:`(1 - p_y^q) / q`.

    :func:`dal_objective` without bootstrapping and with a fixed ``q``.

    Hyper-parameters:
      q: at least 0, values above 1 included. 0 is the cross entropy, 1 the mean
        absolute error, 0.7 the published default. Scalar or ``[...]``; may be traced.

    Returns:
      The loss of each example, ``[...]``, between 0 and ``1 / q``.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> gce(logits, jnp.array([0, 1])).tolist()
      [0.16, 0.541]

    References:
      Zhang and Sabuncu, 2018, arXiv:1805.07836.
    """
    return closed_form.of_label(gce_term, logits, labels, (q,), axis=axis, where=where)


def mae(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Mean absolute error of the prediction, :math:`1 - p_y`.

    Half the 1-norm between the prediction and the one-hot label. Symmetric: its sum
    over all labels is :math:`K - 1`, whatever the prediction.

    Returns:
      The loss of each example, ``[...]``, between 0 and 1.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> mae(logits, jnp.array([0, 1])).tolist()
      [0.156, 0.494]

    References:
      Ghosh et al., 2017, arXiv:1712.09482.
    """
    return closed_form.of_label(_mae_term, logits, labels, axis=axis, where=where)


def ce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy, :math:`-\log p_y`, equal to optax's.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> ce(logits, jnp.array([0, 1])).tolist()
      [0.17, 0.68]
    """
    return closed_form.of_label(_ce_term, logits, labels, axis=axis, where=where)


@jax.custom_jvp
def gce_term(log_p: jax.Array, q: jax.Array) -> jax.Array:
    r"""Returns :math:`(1 - p^q) / q`, and its limit :math:`-\log p` at ``q = 0``."""
    loss = -jnp.expm1(q * log_p) / jnp.where(q == 0, 1, q)
    return jnp.where(q == 0, -log_p, loss)


def _gce_term_jvp(primals, tangents):
    log_p, q = primals
    d_log_p, d_q = tangents
    tangent = jnp.zeros(jnp.broadcast_shapes(log_p.shape, q.shape), log_p.dtype)
    # Autodiff of the quotient would lose a hopeless example's p^q to cancellation.
    if not isinstance(d_log_p, SymbolicZero):
        tangent -= jnp.exp(q * log_p) * d_log_p
    if not isinstance(d_q, SymbolicZero):
        tangent -= log_p**2 * _expm1_ratio_slope(q * log_p) * d_q
    return gce_term(log_p, q), tangent


gce_term.defjvp(_gce_term_jvp, symbolic_zeros=True)


def _expm1_ratio_slope(x: jax.Array) -> jax.Array:
    """Derivative of ``expm1(x) / x``, with its Taylor series near zero."""
    near = jnp.abs(x) < 1
    small, large = jnp.where(near, x, 0), jnp.where(near, -1, x)
    series = jnp.zeros_like(x)
    for n in reversed(range(20)):
        series = series * small + (n + 1) / math.factorial(n + 2)
    return jnp.where(near, series, (1 + jnp.exp(large) * (large - 1)) / large**2)


def _mae_term(log_p: jax.Array) -> jax.Array:
    return -jnp.expm1(log_p)


def _ce_term(log_p: jax.Array) -> jax.Array:
    return -log_p
