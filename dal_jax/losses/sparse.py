r"""Sparse regularisation: any loss is robust once predictions are one-hot.

Zhou et al. (2021), "Learning with Noisy Labels via Sparse Regularization",
arXiv:2108.00192.
"""

import jax
import jax.numpy as jnp

from dal_jax.losses import closed_form, log_space
from dal_jax.losses.dal import ce


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
    of_rows = _loss if labels.ndim == logits.ndim else _loss_of_label
    loss = of_rows(axis, None, logits, labels, (temperature, p, weight))
    return log_space.mask(loss, where)


def _loss(
    axis: int,
    static: None,
    logits: jax.Array,
    labels: jax.Array,
    parameters: tuple[jax.Array, ...],
) -> jax.Array:
    del static
    temperature, p, weight = parameters
    scaled = logits / (_norm(logits, axis)[1] * temperature)
    powers = jnp.exp(p * log_space.log_probs(scaled, axis))
    return ce(scaled, labels, axis=axis) + weight * jnp.sum(powers, axis)


def _with_gradient(axis, static, logits, labels, parameters):
    r"""The loss and its gradient. With :math:`S = \sum_k s_k^p` that is the following.

    .. math::
      \frac{1}{\tau \, \|z\|} \left(g - z \frac{g \cdot z}{\|z\|^2}\right), \qquad
      g_k = s_k - [k = y] + \lambda p \, (s_k^p - s_k S).
    """
    del static
    temperature, p, weight = parameters
    square, norm = _norm(logits, axis)
    scale = 1 / (norm * temperature)
    # What the exponentials are relative to: the largest logit only where they may leave
    # float32, since normalised logits are 1 / temperature at most and a pass is saved.
    top = jax.lax.cond(
        temperature >= 1 / 30,
        jnp.zeros_like,
        lambda _: jax.lax.stop_gradient(jnp.max(logits, axis, keepdims=True)),
        square,
    )
    below = (logits - top) * scale
    exps, powers = jnp.exp(below), jnp.exp(p * below)

    def total(values):
        return jnp.sum(values, axis, keepdims=True)

    log_total = jnp.log(total(exps))
    of_powers = jnp.exp(-p * log_total)
    power_sum = total(powers) * of_powers
    own = jnp.expand_dims(log_space.select_label(logits, labels, axis), axis)
    loss = log_total - (own - top) * scale + weight * power_sum
    of_exps = (1 - weight * p * power_sum) * jnp.exp(-log_total)
    of_powers *= weight * p
    along = total((of_exps * exps + of_powers * powers) * logits) - own
    of_logits = jnp.where(square == 0, 0, scale * along / norm**2)
    others = (scale * of_exps) * exps + (scale * of_powers) * powers
    others -= of_logits * logits
    labelled = log_space.one_hot(labels, logits.shape, axis)
    gradient = others - jnp.where(labelled, scale, 0)
    return jnp.squeeze(loss, axis), gradient


_loss_of_label = closed_form.with_gradient(_loss, _with_gradient)


def _norm(logits: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    square = jnp.sum(logits**2, axis, keepdims=True)
    # The inner select keeps the derivative of the root finite at zero.
    return square, jnp.sqrt(jnp.where(square == 0, 1, square))
