r"""The loss of rows a block at a time, and the products with its gradient.

Of a block's logits, its loss and the gradient :math:`G` by the logits, only the sums of
products stay. With :math:`h`, :math:`W`, :math:`b` the block's hidden states, the
kernel and the bias,

.. math::
  \frac{\partial L}{\partial h} = G W^\top, \qquad
  \frac{\partial L}{\partial W} = \sum_\text{blocks} h^\top G, \qquad
  \frac{\partial L}{\partial b} = \sum_\text{blocks} G^\top 1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

# Of ``(logits, labels, step, index, *captured)``: the loss of each row of a block.
BlockLoss = Callable[..., jax.Array]


class Head(NamedTuple):
    """What all rows share and the loss is differentiated by."""

    kernel: jax.Array
    bias: jax.Array | None
    captured: tuple[Any, ...]  # float arrays that the loss closes over


class Rows(NamedTuple):
    """What each row has, ``[rows_of_a_block, number_of_blocks, ...]``.

    Or the gradient by it, which is ``None`` for integers and booleans.
    """

    hidden: jax.Array
    labels: jax.Array
    index: jax.Array | None
    kept: jax.Array | None


def block(rows: Rows, number: jax.typing.ArrayLike) -> Rows:
    """Returns one block's rows, ``[rows_of_a_block, ...]``; those left out are zero."""
    hidden, labels, index, kept = _take(rows, number)
    if kept is not None:
        # Whatever a row that is left out holds, it adds nothing to the kernel's sum.
        hidden = jnp.where(kept[:, None], hidden, 0)
        labels = jnp.where(kept if labels.ndim == 1 else kept[:, None], labels, 0)
    return Rows(hidden, labels, index, kept)


def _take(rows: Any, number: jax.typing.ArrayLike) -> Any:
    take = functools.partial(jax.lax.dynamic_index_in_dim, axis=1, keepdims=False)
    return jax.tree.map(lambda x: take(x, number), rows)


def logits_of(head: Head, hidden: jax.Array) -> jax.Array:
    """Returns the logits of hidden states, float32 at least."""
    logits = _product("rf,fk->rk", hidden, head.kernel)
    return logits if head.bias is None else logits + head.bias


def _product(spec: str, one: jax.Array, other: jax.Array, like: Any = None):
    """In float32 at least, of narrower factors; with the sharding of ``like``."""
    wide = jnp.promote_types(jnp.promote_types(one.dtype, other.dtype), jnp.float32)
    sharding = None if like is None else jax.typeof(like).sharding
    if sharding and AxisType.Explicit not in sharding.mesh.axis_types:
        sharding = None
    return jnp.einsum(
        spec, one, other, preferred_element_type=wide, out_sharding=sharding
    )


def _block_numbers(rows: Rows) -> jax.Array:
    return jnp.arange(rows.hidden.shape[1])


def losses_of_rows(of_block: BlockLoss, head: Head, rows: Rows, step: Any) -> jax.Array:
    """The loss of each row, ``[rows_of_a_block, number_of_blocks]``."""
    return _losses(of_block, head, rows, step)


def mean_over_rows(of_block: BlockLoss, head: Head, rows: Rows, step: Any) -> jax.Array:
    """The mean loss of the rows that count."""
    return _mean(of_block, head, rows, step)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _losses(of_block: BlockLoss, head: Head, rows: Rows, step: Any) -> jax.Array:
    def next_block(_, number):
        hidden, labels, index, kept = block(rows, number)
        logits = logits_of(head, hidden)
        loss = of_block(logits, labels, step, index, *head.captured)
        return None, loss if kept is None else jnp.where(kept, loss, 0)

    return jax.lax.scan(next_block, None, _block_numbers(rows))[1].T


def _losses_forward(of_block, head, rows, step):
    return losses_of_rows(of_block, head, rows, step), (head, rows, step)


def _losses_backward(of_block, residuals, cotangents):
    head, rows, step = residuals
    return *_with_gradients(of_block, head, rows, step, cotangents)[1:], None


_losses.defvjp(_losses_forward, _losses_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mean(of_block: BlockLoss, head: Head, rows: Rows, step: Any) -> jax.Array:
    return jnp.sum(losses_of_rows(of_block, head, rows, step) * _weights(rows))


def _mean_forward(of_block, head, rows, step):
    weights = _weights(rows)
    losses, *gradients = _with_gradients(of_block, head, rows, step, weights)
    return jnp.sum(losses * weights), gradients


def _mean_backward(of_block, gradients, cotangent):
    return *jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradients), None


_mean.defvjp(_mean_forward, _mean_backward)


def _weights(rows: Rows) -> jax.Array:
    """What each row's loss counts in the mean."""
    if rows.kept is None:
        numbers = rows.hidden[..., 0].astype(jnp.float32)  # for where the rows are
        return jnp.full_like(numbers, 1 / numbers.size)
    return rows.kept / jnp.maximum(jnp.sum(rows.kept), 1)


def _with_gradients(of_block, head, rows, step, cotangents):
    """The rows' losses, and the gradients by head and rows, in their dtypes."""
    soft = jnp.issubdtype(rows.labels.dtype, jnp.floating)

    def next_block(sums, number):
        hidden, labels, index, kept = block(rows, number)
        logits = logits_of(head, hidden)

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
        if kept is not None:  # a slope that is not finite, times zero
            d_logits = jnp.where(kept[:, None], d_logits, 0)
        # Narrow factors, or an accelerator would multiply many times slower.
        d_narrow = d_logits.astype(jnp.promote_types(hidden.dtype, head.kernel.dtype))
        d_hidden = _product("rk,fk->rf", d_narrow, head.kernel, like=hidden)
        d_head = Head(
            _product("rf,rk->fk", hidden, d_narrow, like=head.kernel),
            None if head.bias is None else jnp.sum(d_logits, 0),
            d_captured,
        )
        sums = jax.tree.map(jnp.add, sums, d_head)
        return sums, (loss, d_hidden.astype(hidden.dtype), d_labels)

    def zeros(x):
        return jnp.zeros_like(x, dtype=jnp.promote_types(x.dtype, jnp.float32))

    zero = jax.tree.map(zeros, head)
    d_head, of_rows = jax.lax.scan(next_block, zero, _block_numbers(rows))
    losses, d_hidden, d_labels = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), of_rows)
    d_head = jax.tree.map(lambda d, x: d.astype(x.dtype), d_head, head)
    return losses, d_head, Rows(d_hidden, d_labels, None, None)
