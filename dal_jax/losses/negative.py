r"""Negative learning: what an image is not.

Kim et al. (2019), "NLNL: Negative Learning for Noisy Labels", arXiv:1908.07387.
"""

import chex
import jax
import jax.numpy as jnp

from dal_jax.losses import log_space


def nlnl(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    key: jax.Array,
    *,
    num_negatives: int = 1,
    class_weights: jax.typing.ArrayLike | None = None,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Negative learning against labels drawn among the others.

    .. math::
      L = -\frac{1}{N} \sum_{n=1}^N w_{\bar y_n} \log(1 - p_{\bar y_n})

    with complementary labels :math:`\bar y_n`, drawn uniformly and independently from
    all classes but the given label. Wrong labels harm less this way: the image rarely
    shows :math:`\bar y_n`. The released code takes 1 negative for CIFAR-10 and 110 for
    CIFAR-100; it counts no :math:`1 - p` below 1e-5, where the gradient here stays
    exact.

    Args:
      logits: floating, ``[..., num_classes]``, at least two classes; bfloat16 and
        float16 are computed in float32.
      labels: integers ``[...]``.
      key: a JAX PRNG key; another one draws other complementary labels.
      num_negatives: :math:`N`, a Python integer of at least 1.
      class_weights: :math:`w`, ``[num_classes]``, at least 0; 1 by default.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0], [0.5, 1.0]])
      >>> loss = nlnl(logits, jnp.array([0, 1]), jax.random.key(0))
      >>> print(np.array(loss).round(3))
      [0.127 0.474]

    References:
      Kim et al., 2019, arXiv:1908.07387.
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    num_classes = logits.shape[axis]
    chex.assert_rank(labels, logits.ndim - 1)
    # The remainder favours none by more than num_classes / 2^32, and takes a quarter of
    # the random bits that ``randint`` asks for.
    bits = jax.random.bits(key, (num_negatives, labels.size), jnp.uint32)
    offset = 1 + (bits % (num_classes - 1)).astype(jnp.int32)
    negatives = (labels.reshape(-1) + offset).T % num_classes
    weights = jnp.full(negatives.shape, 1 / num_negatives, logits.dtype)
    if class_weights is not None:
        chex.assert_shape(class_weights, (num_classes,))
        weights *= jnp.asarray(class_weights, logits.dtype)[negatives]
    rows = jnp.moveaxis(logits, axis, -1).reshape(-1, num_classes)
    loss = _against(rows, negatives, weights).reshape(labels.shape)
    return log_space.mask(loss, where)


@jax.custom_jvp
def _against(logits: jax.Array, negatives: jax.Array, weights: jax.Array) -> jax.Array:
    """The weighted sum over the negatives ``[rows, num_negatives]``."""
    return jnp.sum(weights * jax.nn.softplus(_Odds(logits, negatives).log_odds), -1)


@_against.defjvp
def _against_jvp(primals, tangents):
    (logits, negatives, weights), (d_logits, _, d_weights) = primals, tangents
    odds = _Odds(logits, negatives)
    surprise = jax.nn.softplus(odds.log_odds)
    tangent = jnp.sum(surprise * d_weights, -1)
    gradient = odds.gradient(weights * jax.nn.sigmoid(odds.log_odds))
    return jnp.sum(weights * surprise, -1), tangent + jnp.sum(gradient * d_logits, -1)


class _Odds:
    r"""Log-odds :math:`\log(p_n / (1 - p_n))`, exact however sure the prediction.

    A class that has less than half of the probability leaves :math:`1 - p_n` as a
    difference; for one that has more it is the sum over all others, on a scale of
    their own.
    """

    def __init__(self, logits: jax.Array, negatives: jax.Array):
        self.logits, self.negatives = logits, negatives
        self.top = jax.lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
        # Halved, because XLA's CPU backend would write out what the gradient has too.
        half = logits / 2 - self.top / 2
        total = jnp.sum(jnp.exp(2 * half), -1, keepdims=True)
        second = _largest_below(logits, self.top)
        # The largest logit counts as ``cap``, which is then taken off.
        cap = jnp.minimum((self.top - second) / 2, 1)
        capped = jnp.exp(jnp.minimum(logits - second, cap))
        rest = jnp.sum(capped, -1, keepdims=True) - jnp.exp(cap)
        rest = jnp.maximum(rest, jnp.finfo(logits.dtype).tiny)
        # Relative to the largest logit, as all that follows.
        self.log_below = second - self.top + jnp.log(rest)
        shifted = jnp.take_along_axis(logits, negatives, -1) - self.top
        self.exps = jnp.exp(shifted)
        self.alone = self.exps > total / 2
        self.others = jnp.where(self.alone, 1, total - self.exps)
        log_others = jnp.where(self.alone, self.log_below, jnp.log(self.others))
        self.log_odds = shifted - log_others

    def gradient(self, slopes: jax.Array) -> jax.Array:
        """Of a function of the log-odds with the ``slopes`` given."""
        # Each negative is pulled up and pushes each other class by its share of them.
        pushes = jnp.where(self.alone, 0, slopes / self.others)
        of_top = jnp.sum(pushes, -1, keepdims=True)
        # All but the largest are relative to a logit near the sum of their own.
        zero = self.top + jnp.minimum(self.log_below, 0)
        origin = zero - self.top
        of_alone = jnp.where(self.alone, slopes, 0) * jnp.exp(origin - self.log_below)
        of_others = of_top * jnp.exp(origin) + jnp.sum(of_alone, -1, keepdims=True)
        is_top = self.logits == self.top
        exps = jnp.exp(self.logits - jnp.where(is_top, self.top, zero))
        pushed = jnp.where(is_top, of_top, of_others) * exps
        return self._pull(-pushed, slopes + pushes * self.exps)

    def _pull(self, values: jax.Array, pulls: jax.Array) -> jax.Array:
        """Adds to the negatives' ``values``."""
        if self.negatives.shape[-1] > 8:
            rows = jnp.arange(len(values))[:, None]
            return values.at[rows, self.negatives].add(pulls)
        # Few selects fuse with the rest; a scatter has a pass to itself.
        for n in range(self.negatives.shape[-1]):
            drawn = log_space.one_hot(self.negatives[:, n], values.shape, 1)
            values += jnp.where(drawn, pulls[:, n : n + 1], 0)
        return values


def _largest_below(logits: jax.Array, top: jax.Array) -> jax.Array:
    """The largest logit below the largest, which it is itself if all are equal."""
    logits, top = jax.lax.stop_gradient((logits, top))
    # Without a select and with differences of its own, because XLA's CPU backend would
    # write out either: -1 where below, however little, and 0 for the largest.
    least, most = jnp.finfo(logits.dtype).min, jnp.finfo(logits.dtype).max
    is_below = jnp.maximum((logits / 4 - top / 4) * most, -1)
    second = jnp.max(logits + least / 4 * (is_below + 1), -1, keepdims=True)
    return jnp.where(second > least / 8, second, top)
