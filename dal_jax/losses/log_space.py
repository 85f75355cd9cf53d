r"""Log-probabilities, entropy and masks: the one place with numerical care.

Most losses of the family are a function of the log-probability of the given label,
:math:`\log p_y`, alone. :func:`of_label` turns such a function, written for one
number, into a loss: validated, masked, in float32, with the closed-form derivative

.. math::
  \frac{\partial L}{\partial z_k} = f'(\log p_y) \, ([k = y] - p_k)
  - w \, p_k (\log p_k + H),

where the second term is that of an entropy added with weight :math:`w`. To add a loss
of this kind, write ``_term(log_p, *parameters)`` without clamps and as accurate near
``log_p = 0`` as ``expm1`` and ``log1p`` allow, and return
``of_label(_term, logits, labels, parameters, axis=axis, where=where)``. ``_term`` must
be a module-level function and get everything that may be traced through
``parameters``.

A loss that needs all classes calls :func:`prepare` first, computes on
:func:`log_probs` with plain ``jax.numpy``, picks the label by :func:`select_label` and
hands its result to :func:`mask`:

    def loss(logits, labels, *, axis=-1, where=None):
        logits, labels, axis = prepare(logits, labels, axis=axis, where=where)
        log_p = log_probs(logits, axis)
        return mask(f(log_p, select_label(log_p, labels, axis)), where)

Conventions: logits ``[..., num_classes]``, integer labels ``[...]`` or distributions
over the classes ``[..., num_classes]``; ``where`` selects rows, ``[...]``. A masked row
is zero in value and gradient whatever its logits hold, because they are replaced before
any arithmetic. A label outside ``[0, num_classes)`` gives NaN, never a wrong number.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dal_jax.losses.summation import below, half_below, sums_over_classes

Term = Callable[..., jax.Array]


def prepare(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, int]:
    """Checks the arguments that all losses share and makes them safe to compute on.

    Args:
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]`` or floating distributions ``[..., num_classes]``.
      axis: the class axis of ``logits``.
      where: boolean rows to keep, ``[...]``.

    Returns:
      The logits in float32 (float64 stays), zero in masked rows; the labels in int32,
      or in the logits' dtype; the axis counted from the front.

    Raises:
      AssertionError: from chex at trace time, naming the argument at fault.
    """
    logits, labels, axis = _check(logits, labels, axis=axis, where=where)
    return logits.astype(_wide(logits)), labels, axis


def _wide(logits: jax.Array) -> Any:
    return jnp.promote_types(logits.dtype, jnp.float32)


def _check(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    axis: int,
    where: jax.typing.ArrayLike | None,
) -> tuple[jax.Array, jax.Array, int]:
    """As :func:`prepare`, but the logits keep their dtype."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise AssertionError(f"logits must be floating, got {logits.dtype}")
    chex.assert_axis_dimension_gteq(logits, axis, 1)
    axis %= logits.ndim
    rows = logits.shape[:axis] + logits.shape[axis + 1 :]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        chex.assert_shape(
            labels, rows, custom_message=_shapes("integer labels", logits, axis)
        )
        labels = labels.astype(jnp.int32)  # the number of classes may not fit int8
    elif jnp.issubdtype(labels.dtype, jnp.floating):
        chex.assert_shape(
            labels,
            logits.shape,
            custom_message=_shapes("labels as distributions", logits, axis),
        )
        labels = labels.astype(_wide(logits))
    else:
        raise AssertionError(
            f"labels must be integers or floating distributions, got {labels.dtype}"
        )
    if where is not None:
        where = jnp.asarray(where)
        chex.assert_type(where, bool)
        chex.assert_shape(where, rows, custom_message=_shapes("where", logits, axis))
        logits = jnp.where(jnp.expand_dims(where, axis), logits, 0)
        if labels.ndim == logits.ndim:
            labels = jnp.where(jnp.expand_dims(where, axis), labels, 0)
    return logits, labels, axis


def mask(loss: jax.Array, where: jax.typing.ArrayLike | None) -> jax.Array:
    """Sets the rows that ``where`` leaves out to zero."""
    return loss if where is None else jnp.where(where, loss, 0)


def log_probs(logits: jax.Array, axis: int) -> jax.Array:
    """Log-softmax whose gradient and products with ``p`` stay finite at ``-inf``."""
    shifted, log_total = _shift(logits, axis)
    return shifted - log_total


def select_label(values: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Picks ``values`` ``[..., num_classes]`` at the labels, or averages under them."""
    if labels.ndim == values.ndim:
        return jnp.sum(labels * values, axis)
    known = (labels >= 0) & (labels < values.shape[axis])
    return jnp.where(known, _pick(axis, values, labels), jnp.nan)


def one_hot(labels: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Integer labels as booleans of the logits' ``shape``."""
    classes = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
    return classes == jnp.expand_dims(labels, axis)


def entropy(log_p: jax.Array, axis: int) -> jax.Array:
    r"""Entropy :math:`-\sum_k p_k \log p_k` of a prediction in nats."""
    return -jnp.sum(jnp.exp(log_p) * log_p, axis)


def of_label(
    term: Term,
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    parameters: tuple = (),
    *,
    entropy_weight: jax.typing.ArrayLike | None = None,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The loss ``term(log p_y, *parameters) + entropy_weight * H(p)``.

    For distributions the first part is :math:`\sum_k y_k f(\log p_k)`.

    Args:
      term: elementwise and differentiable, ``(log_p, *parameters) -> loss``; a
        function that outlives the call, since compiled code is cached by it.
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]`` or distributions ``[..., num_classes]``.
      parameters: floats or float arrays that broadcast with ``[...]``.
      entropy_weight: float or array of the same kind; ``None`` adds no entropy.
      axis: the class axis of ``logits``.
      where: rows to keep, ``[...]``.

    Returns:
      The loss of each row, ``[...]``, in float32 (float64 for float64 logits).
    """
    logits, labels, axis = _check(logits, labels, axis=axis, where=where)
    as_float = functools.partial(jnp.asarray, dtype=_wide(logits))
    parameters = tuple(map(as_float, parameters))
    weight = None if entropy_weight is None else as_float(entropy_weight)
    return mask(_of_label(term, axis, logits, labels, weight, parameters), where)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _of_label(
    term: Term,
    axis: int,
    logits: jax.Array,
    labels: jax.Array,
    weight: jax.Array | None,
    parameters: tuple[jax.Array, ...],
) -> jax.Array:
    softmax = Softmax(logits, labels, axis, with_entropy=weight is not None)
    loss = softmax.average(term(softmax.log_p, *map(softmax.fit, parameters)))
    return loss if weight is None else loss + weight * softmax.entropy


def _of_label_jvp(term, axis, primals, tangents):
    """One pass over the logits writes the whole gradient, which is the tangent map."""
    logits, labels, weight, parameters = primals
    d_logits, d_labels, d_weight, d_parameters = tangents
    softmax = Softmax(logits, labels, axis, with_entropy=weight is not None)

    def by_parameters(*parameters):
        return term(softmax.log_p, *map(softmax.fit, parameters))

    def by_log_p(log_p):
        return term(log_p, *map(softmax.fit, parameters))

    one = jnp.ones_like(softmax.log_p)
    values, slopes = jax.jvp(by_log_p, (softmax.log_p,), (one,))
    loss = softmax.average(values)
    tangent = jnp.zeros_like(loss)
    if weight is not None:
        loss += weight * softmax.entropy
        if not _is_zero(d_weight):
            tangent += d_weight * softmax.entropy
    if not all(map(_is_zero, d_parameters)):
        d_parameters = map(_instantiate, parameters, d_parameters)
        d_values = jax.jvp(by_parameters, parameters, tuple(d_parameters))[1]
        tangent += softmax.average(d_values)
    if softmax.soft and not _is_zero(d_labels):
        tangent += jnp.sum(values * d_labels, axis)
    if not _is_zero(d_logits):
        gradient = softmax.gradient(slopes, weight)
        tangent += jnp.sum(gradient * d_logits, axis)
    return loss, tangent


_of_label.defjvp(_of_label_jvp, symbolic_zeros=True)


class Softmax:
    """What the loss and its gradient share, so that the logits are exponentiated once.

    ``log_p`` holds one number a row for integer labels, all classes for distributions.
    """

    def __init__(
        self, logits: jax.Array, labels: jax.Array, axis: int, *, with_entropy: bool
    ):
        self.labels, self.soft = labels, labels.ndim == logits.ndim
        self.widen = functools.partial(jnp.expand_dims, axis=axis)
        self.axis = axis
        top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
        narrow, logits = logits, logits.astype(_wide(logits))
        top = top.astype(logits.dtype)
        self.shifted = logits - top
        self.exps = jnp.exp(self.shifted)
        moment = None
        if with_entropy and narrow.dtype != logits.dtype:
            degrees = jnp.arange(2, dtype=logits.dtype)
            sums = sums_over_classes(_moment, (narrow,), (top,), (degrees,), axis)
            self.total, moment = jnp.squeeze(sums, axis + 1)
        else:
            self.total = jnp.sum(self.exps, axis)
            if with_entropy:
                # Halved, because XLA's CPU backend would write ``shifted`` out.
                half = half_below(logits, top)
                moment = 2 * jnp.sum(self.exps * half, axis)
        top = jnp.squeeze(top, axis)
        self.log_total = jnp.log(self.total)
        if self.soft:
            self.log_p = self.finite_shifted() - self.widen(self.log_total)
        else:
            self.log_p = select_label(logits, labels, axis) - top - self.log_total
        if moment is not None:
            self.entropy = self.log_total - moment / self.total

    def finite_shifted(self) -> jax.Array:
        """So that a class of logit ``-inf`` adds nothing, not 0 times infinity."""
        return jnp.maximum(self.shifted, jnp.finfo(self.shifted.dtype).min)

    def fit(self, parameter: jax.Array) -> jax.Array:
        """A parameter, one for all or one a row, in the rank of ``log_p``."""
        return self.widen(parameter) if self.soft and parameter.ndim else parameter

    def average(self, values: jax.Array) -> jax.Array:
        """Over the label's distribution, of a value for every ``log_p``."""
        return jnp.sum(self.labels * values, self.axis) if self.soft else values

    def gradient(self, slopes: jax.Array, weight: jax.Array | None) -> jax.Array:
        """Of ``f(log_p) + weight * entropy`` where ``f`` has the slopes given."""
        if self.soft:
            gradient = self.labels * slopes
        else:
            labelled = one_hot(self.labels, self.shifted.shape, self.axis)
            gradient = jnp.where(labelled, self.widen(slopes), 0)
        slope = self.average(slopes)
        if weight is None:
            return gradient - self.exps * self.widen(slope / self.total)
        # p (log p + H), with the division by the total done once a row.
        constant = slope + weight * (self.entropy - self.log_total)
        linear = self.widen(weight / self.total) * self.finite_shifted()
        return gradient - self.exps * (self.widen(constant / self.total) + linear)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _pick(axis: int, values: jax.Array, labels: jax.Array) -> jax.Array:
    if jax.typeof(values).sharding.spec[axis] is not None:
        # Explicit axes, where a gather along them would have to say its result's.
        return jnp.sum(jnp.where(one_hot(labels, values.shape, axis), values, 0), axis)
    index = jnp.expand_dims(labels, axis)
    return jnp.take_along_axis(values, index, axis, mode="clip").squeeze(axis)


@_pick.defjvp
def _pick_jvp(axis, primals, tangents):
    # A comparison with an iota transposes to a select, where a gather would to a
    # scatter, which is slow and fuses with nothing.
    values, labels = primals
    labelled = one_hot(labels, values.shape, axis)
    tangent = jnp.sum(jnp.where(labelled, tangents[0], 0), axis)
    return _pick(axis, values, labels), tangent


def _moment(logits: jax.Array, top: jax.Array, degree: jax.Array) -> jax.Array:
    """Exponentials for degree 0, and times their exponents for degree 1."""
    shifted = below(logits.astype(top.dtype), top)
    return jnp.exp(shifted) * (1 - degree + degree * shifted)


def _shift(logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Logits below their maximum, and the logarithm of the sum of their exponents."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    # Only a logit of -inf reaches the bound, where p log p would be NaN instead of 0.
    shifted = jnp.maximum(logits - top, jnp.finfo(logits.dtype).min)
    return shifted, jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


def _is_zero(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)


def _instantiate(primal: jax.Array, tangent: Any) -> jax.Array:
    return jnp.zeros_like(primal) if _is_zero(tangent) else tangent


def _shapes(what: str, logits: Any, axis: int) -> str:
    return (
        f"{what} do not fit: logits have shape {logits.shape}, classes on axis {axis}"
    )
