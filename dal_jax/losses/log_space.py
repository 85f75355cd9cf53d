r"""Log-probabilities, entropy and masks for losses that need all classes.

Most losses of the family depend only on the log-probability of the given label;
:mod:`dal_jax.losses.closed_form` handles those, and
:mod:`dal_jax.losses.class_sums` those that need sums over the classes.

A loss that needs all classes calls :func:`prepare` first, computes on
:func:`log_probs` with plain ``jax.numpy``, picks the label with :func:`select_label`
and passes its result to :func:`mask`:

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
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

Value = TypeVar("Value")


def prepare(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array, int]:
    """Checks the arguments that all losses share, and zeroes masked rows.

    Args:
      logits: floating, ``[..., num_classes]``.
      labels: integers ``[...]`` or floating distributions ``[..., num_classes]``.
      axis: the class axis of ``logits``.
      where: boolean rows to keep, ``[...]``.

    Returns:
      The logits in float32 (float64 stays), zero in masked rows; the labels in int32,
      or in the logits' dtype; the axis counted from the front.

    Raises:
      AssertionError: at trace time, naming the wrong argument.
    """
    logits, labels, axis = check(logits, labels, axis=axis, where=where)
    return logits.astype(wide(logits)), labels, axis


def wide(logits: jax.Array) -> Any:
    """The dtype to compute in: float32 at least."""
    return jnp.promote_types(logits.dtype, jnp.float32)


def check(
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
        labels = labels.astype(wide(logits))
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


def custom_jvp(
    *nondiff_argnums: int,
) -> Callable[[Callable[..., Value]], jax.custom_jvp[Value]]:
    """Decorates as ``jax.custom_jvp``; through ``partial`` the type would be lost."""
    return functools.partial(jax.custom_jvp, nondiff_argnums=nondiff_argnums)


@jax.custom_jvp
def below(logits: jax.Array, top: jax.Array) -> jax.Array:
    """The logits minus the largest one, in its dtype, finite even for ``-inf``."""
    shifted = logits.astype(top.dtype) - top
    return jnp.maximum(shifted, jnp.finfo(top.dtype).min)


@below.defjvp
def _below_jvp(primals, tangents):
    # The bound only keeps products with a probability of 0 from being NaN.
    d_logits, d_top = tangents
    return below(*primals), d_logits.astype(d_top.dtype) - d_top


@custom_jvp(1)
def log_probs(logits: jax.Array, axis: int) -> jax.Array:
    """Log-softmax whose gradient and products with ``p`` stay finite at ``-inf``."""
    shifted = below(logits, jnp.max(logits, axis, keepdims=True))
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


@log_probs.defjvp
def _log_probs_jvp(axis, primals, tangents):
    # JAX's own derivative would keep the comparisons of the logits with the bound, and
    # the exponentials. It takes three times as long on the CPU.
    log_p = log_probs(primals[0], axis)
    mean = jnp.sum(jnp.exp(log_p) * tangents[0], axis, keepdims=True)
    return log_p, tangents[0] - mean


def select_label(values: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """Picks ``values`` ``[..., num_classes]`` at the labels, or averages over them."""
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


@custom_jvp(1)
def ce_of_top(logits: jax.Array, axis: int) -> jax.Array:
    r"""Cross entropy against the most probable class, averaged over ties.

    Its derivative is :math:`p_k - 1 / n` for the :math:`n` largest logits, and
    :math:`p_k` for the others.
    """
    top = jnp.max(logits, axis, keepdims=True)
    return jnp.log(jnp.sum(jnp.exp(logits - top), axis))


@ce_of_top.defjvp
def _ce_of_top_jvp(axis, primals, tangents):
    (logits,) = primals
    loss = ce_of_top(logits, axis)
    top = jnp.max(logits, axis, keepdims=True)
    # Integers: XLA's CPU backend writes out what it compares and sums as floats.
    ties = jnp.sum(logits == top, axis, keepdims=True).astype(logits.dtype)
    # Without a checkpoint the probabilities would be kept for the backward pass.
    linear = jax.checkpoint(
        functools.partial(_ce_of_top_tangent, axis), prevent_cse=False
    )
    return loss, linear(logits, loss, top, ties, tangents[0])


def _ce_of_top_tangent(axis, logits, loss, top, ties, d_logits):
    """Linear in ``d_logits``."""
    p = jnp.exp(logits - top - jnp.expand_dims(loss, axis))
    own = jnp.where(logits == top, 1 / ties, 0)
    return jnp.sum((p - own) * d_logits, axis)


@custom_jvp(0)
def _pick(axis: int, values: jax.Array, labels: jax.Array) -> jax.Array:
    masked = functools.partial(_masked, axis)
    if jax.typeof(values).sharding.spec[axis] is not None:
        # With explicit axes, a gather along them would have to name its result's.
        return masked(values, labels)
    # A gather needs its operand in memory. On a GPU or TPU, a sum is fused with others.
    return jax.lax.platform_dependent(
        values, labels, cpu=functools.partial(_gathered, axis), default=masked
    )


def _masked(axis: int, values: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(one_hot(labels, values.shape, axis), values, 0), axis)


def _gathered(axis: int, values: jax.Array, labels: jax.Array) -> jax.Array:
    index = jnp.expand_dims(labels, axis)
    return jnp.take_along_axis(values, index, axis, mode="clip").squeeze(axis)


@_pick.defjvp
def _pick_jvp(axis, primals, tangents):
    # A comparison with an iota transposes to a select. A gather would transpose to a
    # scatter, which is slow and does not fuse.
    values, labels = primals
    return _pick(axis, values, labels), _masked(axis, tangents[0], labels)


def _shapes(what: str, logits: Any, axis: int) -> str:
    return (
        f"{what} do not fit: logits have shape {logits.shape}, classes on axis {axis}"
    )
