r"""Sums of an active and a passive loss.

An active loss only raises the probability of the given label; a passive one also lowers
the probabilities of the others. Ma et al. (2020), arXiv:2006.13554, add one robust loss
of each kind, because either one alone fits too little.

Apart from ``rce``, every function here is a weighted sum of two losses of the family,
and so is its derivative.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import InnerFraction, NonNegative
from dal_jax.losses.asymmetric import agce
from dal_jax.losses.dal import ce, mae
from dal_jax.losses.normalized import nce, nnce

# The reverse cross entropy takes the logarithm of a one-hot label; log 0 is this.
_LOG_ZERO = math.log(1e-4)


def rce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Reverse cross entropy, :math:`-\sum_k p_k \log y_k = A \, (1 - p_y)`.

    :math:`\log 0` is replaced by :math:`-A = \log 10^{-4}`, so the loss is
    :math:`A = 9.21` times the mean absolute error, and symmetric. The released code
    holds :math:`A` in single precision (1.3e-7 more) and clamps probabilities at 1e-6,
    which adds up to :math:`10^{-6} A K`.

    Returns:
      The loss of each example, ``[...]``, between 0 and 9.21.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> rce(logits, jnp.array([0, 1])).tolist()
      [1.439, 4.545]

    References:
      Wang et al., 2019, arXiv:1908.06112.
    """
    return -_LOG_ZERO * mae(logits, labels, axis=axis, where=where)


def sce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: NonNegative = 0.1,
    beta: NonNegative = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Symmetric cross entropy, :math:`\alpha \, \mathrm{CE} + \beta \, \mathrm{RCE}`.

    With ``beta = 0`` this is the cross entropy, with ``alpha = 0`` a multiple of
    :func:`rce`. The note there on the released code applies here too.

    Hyper-parameters:
      alpha: weight of the cross entropy, at least 0; scalar or ``[...]``.
      beta: weight of the reverse cross entropy, at least 0; scalar or ``[...]``.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> sce(logits, jnp.array([0, 1])).tolist()
      [1.456, 4.614]

    References:
      Wang et al., 2019, arXiv:1908.06112.
    """
    forward = ce(logits, labels, axis=axis, where=where)
    reverse = rce(logits, labels, axis=axis, where=where)
    return jnp.multiply(alpha, forward) + jnp.multiply(beta, reverse)


def nce_rce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 1.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised plus reverse cross entropy, an active and a passive loss.

    .. math::
      L = \alpha \, \mathrm{NCE} + \beta \, \mathrm{RCE}

    Hyper-parameters:
      alpha: weight of the active loss, at least 0; scalar or ``[...]``.
      beta: weight of the passive loss, at least 0; scalar or ``[...]``.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> nce_rce(logits, jnp.array([0, 1])).tolist()
      [1.47, 4.738]

    References:
      Ma et al., 2020, arXiv:2006.13554.
    """
    active = nce(logits, labels, axis=axis, where=where)
    passive = rce(logits, labels, axis=axis, where=where)
    return jnp.multiply(alpha, active) + jnp.multiply(beta, passive)


def nce_agce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    a: NonNegative = 6.0,
    q: NonNegative = 1.5,
    alpha: NonNegative = 1.0,
    beta: NonNegative = 4.0,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Normalised cross entropy plus :func:`~dal_jax.losses.asymmetric.agce`.

    .. math::
      L = \alpha \, \mathrm{NCE} + \beta \, \mathrm{AGCE}_{a, q}

    Hyper-parameters:
      a: at least 0; scalar or ``[...]``.
      q: at least 0; scalar or ``[...]``.
      alpha: weight of the active loss, at least 0; scalar or ``[...]``.
      beta: weight of the passive loss, at least 0; scalar or ``[...]``.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> nce_agce(logits, jnp.array([0, 1])).tolist()
      [1.675, 5.322]

    References:
      Zhou et al., 2021, arXiv:2106.03110.
    """
    active = nce(logits, labels, axis=axis, where=where)
    passive = agce(logits, labels, a=a, q=q, axis=axis, where=where)
    return jnp.multiply(alpha, active) + jnp.multiply(beta, passive)


def anl_ce(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: NonNegative = 5.0,
    beta: NonNegative = 5.0,
    min_probability: InnerFraction = 1e-7,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Active-negative loss: normalised plus normalised negative cross entropy.

    .. math::
      L = \alpha \, \mathrm{NCE} + \beta \, \mathrm{NNCE}

    The paper adds an L1 penalty on the network's weights. It is not a function of the
    logits and is not part of this loss.

    Hyper-parameters:
      alpha: weight of the active loss, at least 0; scalar or ``[...]``.
      beta: weight of the negative loss, at least 0; scalar or ``[...]``.
      min_probability: see :func:`~dal_jax.losses.normalized.nnce`.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> anl_ce(logits, jnp.array([0, 1])).tolist()
      [3.293, 4.238]

    References:
      Ye et al., 2023, "Active Negative Loss Functions for Learning with Noisy Labels",
      NeurIPS.
    """
    active = nce(logits, labels, axis=axis, where=where)
    negative = nnce(
        logits, labels, min_probability=min_probability, axis=axis, where=where
    )
    return jnp.multiply(alpha, active) + jnp.multiply(beta, negative)
