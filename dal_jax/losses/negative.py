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
    drawn = jax.random.randint(key, (num_negatives, labels.size), 1, num_classes)
    negatives = (labels.reshape(-1) + drawn) % num_classes
    counts = jnp.zeros((labels.size, num_classes), logits.dtype)
    counts = counts.at[jnp.arange(labels.size), negatives].add(1 / num_negatives)
    if class_weights is not None:
        chex.assert_shape(class_weights, (num_classes,))
        counts *= jnp.asarray(class_weights, logits.dtype)
    counts = jnp.moveaxis(counts.reshape(*labels.shape, num_classes), -1, axis)
    complement = log_complement(log_space.log_probs(logits, axis), axis)
    return log_space.mask(-jnp.sum(counts * complement, axis), where)


def log_complement(log_p: jax.Array, axis: int) -> jax.Array:
    r"""Returns :math:`\log(1 - p_k)` of every class, exact for :math:`p_k` near 1."""
    own = jnp.expand_dims(jnp.argmax(jax.lax.stop_gradient(log_p), axis), axis)
    is_top = jax.lax.broadcasted_iota(own.dtype, log_p.shape, axis) == own
    # 1 - p of the top class is the sum of the others; no other class exceeds 1/2.
    others = jnp.where(is_top, -jnp.inf, log_p)
    of_top = jax.nn.logsumexp(others, axis, keepdims=True)
    return jnp.where(is_top, of_top, jnp.log1p(-jnp.exp(jnp.where(is_top, -1, log_p))))
