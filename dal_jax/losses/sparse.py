r"""Sparse regularisation: any loss is robust once predictions are one-hot.

Zhou et al. (2021), "Learning with Noisy Labels via Sparse Regularization",
arXiv:2108.00192.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dal_jax.losses import log_space
from dal_jax.losses.dal import ce
from dal_jax.losses.summation import sum_over_classes


def ce_sr(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    temperature: jax.typing.ArrayLike = 0.5,
    p: jax.typing.ArrayLike = 0.1,
    regularization_weight: jax.typing.ArrayLike = 1.2,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy with sparse regularisation.

    .. math::
      L = -\log s_y + \lambda \sum_k s_k^p, \qquad
      s = \mathrm{softmax}\left(\frac{z}{\tau \, \|z\|_2}\right)

    The normalised logits bound how sharp a prediction can be; the norm, smallest for a
    one-hot prediction, draws it there. Logits that are all zero are left as they are.
    Equal to the released code, which clamps nothing here.

    Args:
      logits: floating, ``[..., num_classes]``; bfloat16 and float16 are computed in
        float32.
      labels: integers ``[...]``, or distributions ``[..., num_classes]``, under which
        the loss is averaged.
      temperature: :math:`\tau`, above 0; the smaller, the sharper a prediction can be.
      p: above 0 and at most 1, where the norm is constant.
      regularization_weight: :math:`\lambda`, at least 0; grows during training. 0 is
        the cross entropy of the normalised logits. All are scalar and may be traced.
      axis: the class axis of ``logits``.
      where: rows to keep, boolean ``[...]``; others are zero in value and gradient.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Raises:
      AssertionError: at trace time, naming the argument whose rank, shape or dtype
        does not fit.

    Example:
      >>> import numpy as np
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> print(np.array(ce_sr(logits, jnp.array([0, 1]))).round(3))
      [3.267 3.609]

    References:
      Zhou et al., 2021, arXiv:2108.00192.
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    temperature, p, weight = (
        jnp.asarray(x, logits.dtype) for x in (temperature, p, regularization_weight)
    )
    square = jnp.sum(logits**2, axis, keepdims=True)
    # The inner select keeps the derivative of the root finite at zero.
    norm = jnp.sqrt(jnp.where(square == 0, 1, square))
    scaled = logits / (norm * temperature)
    fit = ce(scaled, labels, axis=axis)
    return log_space.mask(fit + weight * _power_sum(axis, scaled, p), where)


def _power_sum_of(axis: int, logits: jax.Array, p: jax.Array) -> jax.Array:
    def of_class(logits, top, p):
        return jnp.exp(p * (logits - top))

    top = jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True))
    log_total = jnp.log(jnp.sum(jnp.exp(logits - top), axis))
    powers = sum_over_classes(of_class, logits, (top, p), axis)
    return jnp.squeeze(powers, axis) * jnp.exp(-p * log_total)


_power_sum = jax.custom_jvp(_power_sum_of, nondiff_argnums=(0,))


@functools.partial(_power_sum.defjvp, symbolic_zeros=True)
def _power_sum_jvp(axis, primals, tangents):
    logits, p = primals
    d_logits, d_p = tangents
    value = _power_sum(axis, logits, p)
    tangent = jnp.zeros_like(value)
    if not isinstance(d_logits, SymbolicZero):
        log_s = log_space.log_probs(logits, axis)
        shares = jnp.exp(p * log_s) - jnp.exp(log_s) * jnp.expand_dims(value, axis)
        tangent += jnp.sum(p * shares * d_logits, axis)
    if not isinstance(d_p, SymbolicZero):
        of_p = functools.partial(_power_sum_of, axis, logits)
        tangent += jax.jvp(of_p, (p,), (d_p,))[1]
    return value, tangent
