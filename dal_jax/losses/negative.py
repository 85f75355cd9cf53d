r"""Negative learning: learning what an image does not show.

Kim et al. (2019), "NLNL: Negative Learning for Noisy Labels", arXiv:1908.07387.
"""

import math

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import Count
from dal_jax.losses import log_space
from dal_jax.losses.class_sums import log_p_of, normalizer, sum_over_classes

_HALF = math.log(0.5)


def nlnl(
    logits: ArrayLike,
    labels: ArrayLike,
    key: jax.Array,
    *,
    num_negatives: Count = 1,
    class_weights: ArrayLike | None = None,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Negative learning against labels drawn among the others.

    .. math::
      L = -\frac{1}{N} \sum_{n=1}^N w_{\bar y_n} \log(1 - p_{\bar y_n})

    with complementary labels :math:`\bar y_n`, drawn uniformly and independently from
    all classes except the given label. Wrong labels do less harm this way, because the
    image rarely shows :math:`\bar y_n`. The released code uses 1 negative for CIFAR-10
    and 110 for CIFAR-100. It clamps :math:`1 - p` at 1e-5; here the gradient stays
    exact below that.

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

    Example:
      >>> logits = jnp.array([[2.0, 0.0], [0.5, 1.0]])
      >>> loss = nlnl(logits, jnp.array([0, 1]), jax.random.key(0))
      >>> loss.tolist()
      [0.127, 0.474]
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    num_classes = logits.shape[axis]
    chex.assert_rank(labels, logits.ndim - 1)
    # The remainder is biased by at most num_classes / 2^32, and needs a quarter of the
    # random bits that ``randint`` uses.
    bits = jax.random.bits(key, (num_negatives, labels.size), jnp.uint32)
    offset = 1 + (bits % (num_classes - 1)).astype(jnp.int32)
    negatives = (labels.reshape(-1) + offset) % num_classes
    negatives = negatives.reshape(num_negatives, *labels.shape)
    surprise = -_log_complement(logits, negatives, axis)
    if class_weights is not None:
        chex.assert_shape(class_weights, (num_classes,))
        surprise *= jnp.asarray(class_weights, surprise.dtype)[negatives]
    return log_space.mask(jnp.mean(surprise, 0), where)


def _log_complement(logits: jax.Array, negatives: jax.Array, axis: int) -> jax.Array:
    r""":math:`\log(1 - p_n)` of the ``negatives`` ``[number, ...]``, exact near 1.

    If a class has more than half of the probability, :math:`1 - p` would lose
    precision, so it is the sum over the other classes. Otherwise it is the difference.
    """
    top, log_total = rows = normalizer(axis, logits)
    # The largest logit but one is the largest of the classes with less than half.
    second = jax.lax.stop_gradient(logits)
    second = jnp.where(log_p_of(second, *rows) > _HALF, -jnp.inf, second)
    second = jnp.max(second, axis, keepdims=True).astype(top.dtype)
    second = jnp.maximum(second, jnp.finfo(top.dtype).min)
    others = sum_over_classes(_beside_one, axis, (logits,), (*rows, second))
    others = jnp.squeeze(jnp.log(others) + second - top - log_total, axis)
    of_negative = jax.vmap(log_space.select_label, (None, 0, None))
    own = of_negative(logits, negatives, axis).astype(top.dtype)
    own = log_space.below(own, jnp.squeeze(top, axis)) - jnp.squeeze(log_total, axis)
    difference = jnp.log1p(-jnp.exp(jnp.where(own > _HALF, -1, own)))
    return jnp.where(own > _HALF, others, difference)


def _beside_one(logits, top, log_total, second):
    """Exponentials of the classes that have less than half of the probability."""
    less = log_p_of(logits, top, log_total) <= _HALF
    return jnp.where(less, jnp.exp(log_space.below(logits, second)), 0)
