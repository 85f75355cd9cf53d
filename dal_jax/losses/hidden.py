r"""Losses from hidden states, for a last layer whose logits don't fit in memory.

A language model's last layer turns ``[rows, features]`` hidden states into
``[rows, num_classes]`` logits, which are often the largest array of all. Here the rows
are taken a block at a time (:mod:`~dal_jax.losses.row_blocks`).

Rows ``i``, ``i + n``, ``i + 2n``, ... of ``n`` blocks make block ``i``, so that rows
that lie on several devices are spread over all of them in every block.
"""

import inspect
import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from dal_jax.errors import InputError
from dal_jax.losses import row_blocks
from dal_jax.losses.row_blocks import Head, Rows

Loss = Callable[[jax.Array, jax.Array, jax.typing.ArrayLike], jax.Array]

# Each block reads the kernel, and reads and writes the sum of its gradients, which
# takes an accelerator as long as the products of several hundred rows.
_ROWS = 512


def from_hidden(loss: Loss, *, rows_per_block: int | None = None) -> Callable:
    r"""A loss of hidden states and the last layer that never holds all logits.

    The result is ``f(hidden, kernel, labels, step, *, bias=None, where=None)``, equal
    in value and gradient (by hidden states, kernel and bias) to
    ``loss(hidden @ kernel + bias, labels, step)``, whatever is done with the rows'
    losses afterwards. For their gradient the logits are computed a second time;
    :func:`mean_from_hidden` computes them once.

    ``hidden`` is ``[..., features]``, ``kernel`` ``[features, num_classes]``, ``bias``
    ``[num_classes]``; ``labels`` are integers ``[...]`` or distributions
    ``[..., num_classes]``; ``where`` is boolean ``[...]`` and keeps rows. The losses
    are ``[...]``. Logits and sums are float32 also for bfloat16 arguments, which are
    multiplied as they are. Derivatives are of reverse mode; ``step`` has none. Inside
    ``shard_map``, a kernel that all devices share is to be given as
    ``jax.lax.pcast(kernel, axes, to="varying")``, the bias too.

    Args:
      loss: any ``loss(logits, labels, step)`` of the family, of each row by itself.
      rows_per_block: how many rows' logits to hold at once, over all devices; 512
        unless given.

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
      [0.369 0.842 1.22 ]
    """
    number = _checked(rows_per_block)

    def f(hidden, kernel, labels, step, *, bias=None, where=None):
        arguments = hidden, kernel, labels, step, bias, where
        shape, of_block, head, rows = _prepare(loss, number, *arguments)
        losses = row_blocks.losses_of_rows(of_block, head, rows, step).ravel()
        return losses[: math.prod(shape)].reshape(shape)

    return f


def mean_from_hidden(loss: Loss, *, rows_per_block: int | None = None) -> Callable:
    r"""The mean loss over the rows, by a last layer that never holds all logits.

    As :func:`from_hidden`, but the mean (over the rows that ``where`` keeps; zero if it
    keeps none) is taken inside. Its gradient is then known up to a factor when a
    block's logits are, so that they are computed once.

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
        return row_blocks.mean_over_rows(of_block, head, rows, step)

    return f


def _checked(rows_per_block: int | None) -> int:
    number = _ROWS if rows_per_block is None else rows_per_block
    if number < 1:
        raise InputError(
            f"rows_per_block is {number}: expected at least 1; pass a larger one"
        )
    return number


def _prepare(loss, number, hidden, kernel, labels, step, bias, where):
    """Checks the arguments, cuts the rows into blocks, frees the loss of captures."""
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
    rows = Rows(cut(hidden), cut(labels), cut(index), kept)
    # Draws depend on the row; other losses do not ask which it is.
    draws = "index" in inspect.signature(loss).parameters

    def of_block(logits, labels, step, index):
        return loss(logits, labels, step, **({"index": index} if draws else {}))

    head = Head(kernel, bias, ())
    block = row_blocks.block(rows, 0)
    logits = jax.eval_shape(row_blocks.logits_of, head, block.hidden)
    of_block, captured = jax.closure_convert(
        of_block, logits, block.labels, step, block.index
    )
    return shape, of_block, head._replace(captured=tuple(captured)), rows
