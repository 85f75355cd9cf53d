r"""Sparse regularisation: any loss is robust once predictions are one-hot.

Zhou et al. (2021), "Learning with Noisy Labels via Sparse Regularization",
arXiv:2108.00192.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.hyperparameters import NonNegative, Positive, PositiveFraction
from dal_jax.losses import log_space
from dal_jax.losses.class_sums import sum_over_classes


def ce_sr(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: Positive = 0.5,
    p: PositiveFraction = 0.1,
    regularization_weight: NonNegative = 1.2,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross entropy with sparse regularisation.

    .. math::
      L = -\log s_y + \lambda \sum_k s_k^p, \qquad
      s = \mathrm{softmax}\left(\frac{z}{\tau \, \|z\|_2}\right)

    Normalising the logits limits how sharp a prediction can be. The penalty is smallest
    for a one-hot prediction and pulls predictions towards it. Logits that are all zero
    stay as they are. This equals the released code, which clamps nothing here.

    Hyper-parameters:
      temperature: :math:`\tau`, above 0; the smaller, the sharper a prediction can be.
      p: above 0 and at most 1; at 1 the penalty is constant.
      regularization_weight: :math:`\lambda`, at least 0; 0 is the cross entropy of the
        normalised logits. All are scalar and may be traced. Published runs let it grow
        during training.

    Returns:
      The loss of each example, ``[...]``, at least 0.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]])
      >>> ce_sr(logits, jnp.array([0, 1])).tolist()
      [3.267, 3.609]
    """
    logits, labels, axis = log_space.prepare(logits, labels, axis=axis, where=where)
    wide = log_space.wide(logits)
    square = sum_over_classes(_square, axis, (logits,), ())
    # The select keeps the derivative of the root finite at zero.
    scale = 1 / (jnp.sqrt(jnp.where(square == 0, 1, square)) * temperature)
    top = jnp.max(jax.lax.stop_gradient(logits), axis, keepdims=True).astype(wide)
    log_total = jnp.log(sum_over_classes(_exps, axis, (logits,), (top, scale)))
    rows = top, scale, log_total
    power = jnp.asarray(p, wide)
    sparsity = sum_over_classes(_powers, axis, (logits,), (*rows, power))
    if labels.ndim < logits.ndim:
        label = log_space.select_label(logits, labels, axis)
        own = _log_s(jnp.expand_dims(label, axis), *rows)
    else:
        own = sum_over_classes(_weighted_log_s, axis, (logits, labels), rows)
    loss = jnp.multiply(regularization_weight, sparsity) - own
    return log_space.mask(jnp.squeeze(loss, axis), where)


def _square(logits: jax.Array) -> jax.Array:
    return logits.astype(log_space.wide(logits)) ** 2


def _exps(logits: jax.Array, top: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.exp(scale * log_space.below(logits, top))


def _log_s(logits, top, scale, log_total):
    return scale * log_space.below(logits, top) - log_total


def _powers(logits, top, scale, log_total, power):
    return jnp.exp(power * _log_s(logits, top, scale, log_total))


def _weighted_log_s(logits, labels, *rows):
    return labels * _log_s(logits, *rows)
