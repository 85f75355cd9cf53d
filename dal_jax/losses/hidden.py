r"""Losses from hidden states, for a last layer whose logits do not fit in memory.

A language model's last layer turns ``[rows, features]`` hidden states into
``[rows, num_classes]`` logits, often the largest array of all. This module processes
one block of rows at a time: its logits, its loss, the gradient with respect to the
logits, and the products with that gradient, of which only the sums are kept. With
:math:`G` the gradient with respect to a block's logits, and :math:`h`, :math:`W`,
:math:`b` its hidden states, kernel and bias,

.. math::
  \frac{\partial L}{\partial h} = G W^\top, \qquad
  \frac{\partial L}{\partial W} = \sum_\text{blocks} h^\top G, \qquad
  \frac{\partial L}{\partial b} = \sum_\text{blocks} G^\top 1.

With ``n`` blocks, block ``i`` holds the rows ``i``, ``i + n``, ``i + 2n``, ... So if
rows are spread over several devices, every block is spread over all of them.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from dal_jax.errors import InputError

Loss = Callable[[jax.Array, jax.Array, jax.typing.ArrayLike], jax.Array]

# Each block reads the kernel, and reads and writes the sum of its gradients, which
# takes an accelerator as long as the products of several hundred rows.
_ROWS = 512


class _Head(NamedTuple):
    """What all rows share and the loss is differentiated with respect to."""

    kernel: jax.Array
    bias: jax.Array | None
    captured: tuple  # float arrays that the loss closes over


class _Rows(NamedTuple):
    """What each row has, ``[rows_of_a_block, number_of_blocks, ...]``.

    Or the gradient by it, which is ``None`` for integers and booleans.
    """

    hidden: jax.Array
    labels: jax.Array
    index: jax.Array | None
    kept: jax.Array | None


def from_hidden(loss: Loss, *, rows_per_block: int | None = None) -> Callable:
    r"""A loss of hidden states and the last layer that never holds all logits.

    The result is ``f(hidden, kernel, labels, step, *, bias=None, where=None)``. Its
    value and its gradient (with respect to hidden states, kernel and bias) equal those
    of ``loss(hidden @ kernel + bias, labels, step)``, whatever you do with the rows'
    losses afterwards. The gradient computes the logits a second time;
    :func:`mean_from_hidden` computes them once.

    ``hidden`` is ``[..., features]``, ``kernel`` ``[features, num_classes]``, ``bias``
    ``[num_classes]``; ``labels`` are integers ``[...]`` or distributions
    ``[..., num_classes]``; ``where`` is boolean ``[...]`` and keeps rows. The losses
    are ``[...]``. bfloat16 arguments are multiplied as they are, but logits and sums
    are float32. Only reverse-mode derivatives work; ``step`` has none. Inside
    ``shard_map``, pass a kernel that all devices share as
    ``jax.lax.pcast(kernel, axes, to="varying")``, and the bias too.

    Args:
      loss: any ``loss(logits, labels, step)`` that treats each row independently.
      rows_per_block: how many rows' logits to hold at once, over all devices; default
        512.

    Returns:
      The function above. It raises ``AssertionError`` at trace time where shapes or
      dtypes do not fit.

    Raises:
      InputError: if ``rows_per_block`` is not at least 1.

    Example:
      >>> import numpy as np
      >>> from dal_jax import losses
      >>> hidden = jnp.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]])
      >>> kernel = jnp.array([[1.0, 0.0, -1.0, 0.5], [0.0, 1.0, 0.5, -1.0]])
      >>> labels = jnp.array([1, 0, 3])
      >>> loss = losses.from_hidden(losses.make("gce"), rows_per_block=2)
      >>> print(np.array(loss(hidden, kernel, labels, 0)).round(3))
      [0.493 0.735 1.101]
    """
    number = _checked(rows_per_block)

    def f(hidden, kernel, labels, step, *, bias=None, where=None):
        arguments = hidden, kernel, labels, step, bias, where
        shape, of_block, head, rows = _prepare(loss, number, *arguments)
        losses = _losses(of_block, head, rows, step).ravel()
        return losses[: math.prod(shape)].reshape(shape)

    return f


def mean_from_hidden(loss: Loss, *, rows_per_block: int | None = None) -> Callable:
    r"""The mean loss over the rows, from a last layer that never holds all logits.

    Like :func:`from_hidden`, but the mean (over the rows that ``where`` keeps; zero if
    it keeps none) is taken inside. Then the gradient of a block is known up to a factor
    as soon as its logits are, so they are computed only once.

    Args:
      loss: as for :func:`from_hidden`.
      rows_per_block: as for :func:`from_hidden`.

    Returns:
      ``f(hidden, kernel, labels, step, *, bias=None, where=None) -> mean``, a scalar.

    Raises:
      InputError: if ``rows_per_block`` is not at least 1.

    Example:
      >>> from dal_jax import losses
      >>> loss = losses.mean_from_hidden(losses.make("gce"))
      >>> hidden, kernel = jnp.ones((2, 3)), jnp.zeros((3, 4))
      >>> print(loss(hidden, kernel, jnp.array([1, 0]), 0).round(3))
      0.887
    """
    number = _checked(rows_per_block)

    def f(hidden, kernel, labels, step, *, bias=None, where=None):
        arguments = hidden, kernel, labels, step, bias, where
        _, of_block, head, rows = _prepare(loss, number, *arguments)
        return _mean(of_block, head, rows, step)

    return f


def _checked(rows_per_block: int | None) -> int:
    number = _ROWS if rows_per_block is None else rows_per_block
    if number < 1:
        raise InputError(
            f"rows_per_block is {number}: expected at least 1; pass a larger one"
        )
    return number


def _prepare(loss, number, hidden, kernel, labels, step, bias, where):
    """Checks the arguments, cuts the rows into blocks, extracts the loss's captures."""
    hidden, kernel, labels = map(jnp.asarray, (hidden, kernel, labels))
    chex.assert_rank(kernel, 2)
    chex.assert_axis_dimension(hidden, -1, kernel.shape[0])
    shape = hidden.shape[:-1]
    if jnp.issubdtype(labels.dtype, jnp.floating):
        chex.assert_shape(labels, (*shape, kernel.shape[1]))
    else:
        chex.assert_shape(labels, shape)
    if bias is not None:
        chex.assert_shape(bias, kernel.shape[1:])
    if where is not None:
        chex.assert_shape(where, shape)
        chex.assert_type(where, bool)
    count = math.prod(shape)
    blocks = max(1, -(-count // number))
    padding = -count % blocks
    if padding and where is None:
        where = jnp.ones(shape, bool)

    def cut(rows):
        rows = rows.reshape(count, *rows.shape[len(shape) :])
        if padding:
            rows = jnp.pad(rows, [(0, padding)] + [(0, 0)] * (rows.ndim - 1))
        return rows.reshape(-1, blocks, *rows.shape[1:])

    index = jnp.arange(count).reshape(shape)
    kept = None if where is None else cut(where)
    rows = _Rows(cut(hidden), cut(labels), cut(index), kept)
    # Draws depend on the row; other losses do not ask which it is.
    draws = "index" in inspect.signature(loss).parameters

    def of_block(logits, labels, step, index):
        return loss(logits, labels, step, **({"index": index} if draws else {}))

    head = _Head(kernel, bias, ())
    block = _block(rows, 0)
    logits = jax.eval_shape(_logits, head, block.hidden)
    of_block, captured = jax.closure_convert(
        of_block, logits, block.labels, step, block.index
    )
    return shape, of_block, head._replace(captured=tuple(captured)), rows


def _block(rows: _Rows, number: jax.typing.ArrayLike) -> _Rows:
    hidden, labels, index, kept = _take(rows, number)
    if kept is not None:
        # A masked row adds nothing to the kernel's sum, whatever it holds.
        hidden = jnp.where(kept[:, None], hidden, 0)
        labels = jnp.where(kept if labels.ndim == 1 else kept[:, None], labels, 0)
    return _Rows(hidden, labels, index, kept)


def _take(rows: Any, number: jax.typing.ArrayLike) -> Any:
    take = functools.partial(jax.lax.dynamic_index_in_dim, axis=1, keepdims=False)
    return jax.tree.map(lambda x: take(x, number), rows)


def _logits(head: _Head, hidden: jax.Array) -> jax.Array:
    logits = _product("rf,fk->rk", hidden, head.kernel)
    return logits if head.bias is None else logits + head.bias


def _product(spec: str, one: jax.Array, other: jax.Array, like: Any = None):
    """A product in at least float32, with the sharding of ``like``."""
    wide = jnp.promote_types(jnp.promote_types(one.dtype, other.dtype), jnp.float32)
    sharding = None if like is None else jax.typeof(like).sharding
    if sharding and AxisType.Explicit not in sharding.mesh.axis_types:
        sharding = None
    return jnp.einsum(
        spec, one, other, preferred_element_type=wide, out_sharding=sharding
    )


def _number_of_blocks(rows: _Rows) -> jax.Array:
    return jnp.arange(rows.hidden.shape[1])


def _of_rows(of_block: Callable, head: _Head, rows: _Rows, step: Any) -> jax.Array:
    """The loss of each row, ``[rows_of_a_block, number_of_blocks]``."""

    def next_block(_, number):
        hidden, labels, index, kept = _block(rows, number)
        logits = _logits(head, hidden)
        loss = of_block(logits, labels, step, index, *head.captured)
        return None, loss if kept is None else jnp.where(kept, loss, 0)

    return jax.lax.scan(next_block, None, _number_of_blocks(rows))[1].T


_losses = jax.custom_vjp(_of_rows, nondiff_argnums=(0,))


def _losses_forward(of_block, head, rows, step):
    return _losses(of_block, head, rows, step), (head, rows, step)


def _losses_backward(of_block, residuals, cotangents):
    head, rows, step = residuals
    return *_with_gradients(of_block, head, rows, step, cotangents)[1:], None


_losses.defvjp(_losses_forward, _losses_backward)


def _of_all(of_block: Callable, head: _Head, rows: _Rows, step: Any) -> jax.Array:
    return jnp.sum(_losses(of_block, head, rows, step) * _weights(rows))


_mean = jax.custom_vjp(_of_all, nondiff_argnums=(0,))


def _mean_forward(of_block, head, rows, step):
    weights = _weights(rows)
    losses, *gradients = _with_gradients(of_block, head, rows, step, weights)
    return jnp.sum(losses * weights), gradients


def _mean_backward(of_block, gradients, cotangent):
    return *jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients), None


_mean.defvjp(_mean_forward, _mean_backward)


def _weights(rows: _Rows) -> jax.Array:
    """The weight of each row's loss in the mean."""
    if rows.kept is None:
        numbers = rows.hidden[..., 0].astype(jnp.float32)  # for where the rows are
        return jnp.full_like(numbers, 1 / numbers.size)
    return rows.kept / jnp.maximum(jnp.sum(rows.kept), 1)


def _with_gradients(of_block, head, rows, step, cotangents):
    """The rows' losses, and the gradients by head and rows, in their dtypes."""
    soft = jnp.issubdtype(rows.labels.dtype, jnp.floating)

    def next_block(sums, number):
        hidden, labels, index, kept = _block(rows, number)
        logits = _logits(head, hidden)

        def by_logits(logits, captured, soft_labels):
            given = soft_labels if soft else labels
            return of_block(logits, given, step, index, *captured)

        loss, transpose = jax.vjp(
            by_logits, logits, head.captured, labels if soft else None
        )
        cotangent = _take(cotangents, number)
        if kept is not None:
            loss, cotangent = (jnp.where(kept, x, 0) for x in (loss, cotangent))
        d_logits, d_captured, d_labels = transpose(cotangent.astype(loss.dtype))
        # With wide factors an accelerator would multiply many times slower.
        d_narrow = d_logits.astype(jnp.promote_types(hidden.dtype, head.kernel.dtype))
        d_hidden = _product("rk,fk->rf", d_narrow, head.kernel, like=hidden)
        d_head = _Head(
            _product("rf,rk->fk", hidden, d_narrow, like=head.kernel),
            None if head.bias is None else jnp.sum(d_logits, 0),
            d_captured,
        )
        if kept is not None:
            d_hidden = jnp.where(kept[:, None], d_hidden, 0)
        sums = jax.tree.map(jnp.add, sums, d_head)
        return sums, (loss, d_hidden.astype(hidden.dtype), d_labels)

    def zeros(x):
        return jnp.zeros_like(x, dtype=jnp.promote_types(x.dtype, jnp.float32))

    zero = jax.tree.map(zeros, head)
    d_head, of_rows = jax.lax.scan(next_block, zero, _number_of_blocks(rows))
    losses, d_hidden, d_labels = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), of_rows)
    d_head = jax.tree.map(lambda d, x: d.astype(x.dtype), d_head, head)
    return losses, d_head, _Rows(d_hidden, d_labels, None, None)
