r"""Mixup: training on mixtures of examples (Zhang et al., 2018, arXiv:1710.09412).

.. math:: \tilde x = \lambda x_i + (1 - \lambda) x_j, \qquad
   \tilde y = \lambda y_i + (1 - \lambda) y_j, \qquad
   \lambda \sim \mathrm{Beta}(\alpha, \alpha)

As in the authors' code and torchvision's, one :math:`\lambda` is drawn a batch. Example
:math:`j` is the one before :math:`i` in the whole batch, whose order is random already;
so a step is the same on any number of devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any
# (key, inputs, labels) -> (inputs, labels)
Mixup = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def before(batch: PyTree) -> PyTree:
    """Returns for each example the one before it; the last one for the first."""
    return jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)


def make_mixup(
    alpha: float,
    num_classes: int,
    neighbours: Callable[[PyTree], PyTree] = before,
) -> Mixup:
    """Returns what mixes the examples of a step.

    Args:
      alpha: of the Beta distribution, more than 0.
      num_classes: of the labels.
      neighbours: the other example of each, over all devices.

    Returns:
      ``mix(key, inputs, labels)``: the step's own key, inputs floating
      ``[batch, ...]``, labels integers ``[batch]`` or distributions
      ``[batch, num_classes]``; the labels of the result are distributions.

    Example:
      >>> mix = make_mixup(1.0, num_classes=2)
      >>> key = jax.random.key(0)
      >>> inputs, labels = mix(key, jnp.array([0.0, 1.0]), jnp.array([0, 1]))
      >>> bool((inputs == labels[:, 1]).all())
      True
    """

    def mix(key: jax.Array, inputs: jax.Array, labels: jax.Array):
        share = jax.random.beta(key, alpha, alpha)
        if not jnp.issubdtype(labels.dtype, jnp.floating):
            labels = jax.nn.one_hot(labels, num_classes)

        def mixed(own: jax.Array, other: jax.Array) -> jax.Array:
            return (share * own + (1 - share) * other).astype(own.dtype)

        return jax.tree.map(mixed, (inputs, labels), neighbours((inputs, labels)))

    return mix
