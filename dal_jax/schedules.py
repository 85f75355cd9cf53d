"""How the parameters of Dynamics-Aware Loss change while a network trains.

Li et al. (2023), "Dynamics-Aware Loss for Learning with Label Noise", Pattern
Recognition, arXiv:2303.11562. A network fits clean examples first and wrong labels
later. So the loss starts close to cross entropy, which fits well, and ends robust.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dal_jax.errors import InputError
from dal_jax.hyperparameters import NonNegative


class DALCoefficients(NamedTuple):
    """The two parameters of the loss at one step, each a float scalar."""

    q: jax.typing.ArrayLike
    bootstrap_weight: jax.typing.ArrayLike


Schedule = Callable[[jax.typing.ArrayLike], DALCoefficients]


def _require(value: jax.typing.ArrayLike, least: float, name: str) -> None:
    if not (isinstance(value, Tracer) or np.all(np.asarray(value) >= least)):
        raise InputError(
            f"{name} is {value}, but at least {least} was expected: "
            f"pass a larger {name}"
        )


def dal_schedule(
    total_steps: jax.typing.ArrayLike,
    *,
    q_start: NonNegative = 0.6,
    q_end: NonNegative = 1.5,
    steps_per_epoch: jax.typing.ArrayLike | None = None,
) -> Schedule:
    r"""Returns the schedule that drives Dynamics-Aware Loss.

    With :math:`t` the step and :math:`T` the total number of steps,

    .. math::
      q_t = q_s + (q_e - q_s) \, t / T, \qquad
      \lambda_t = \max\left(0, \frac{q_t - 1}{q_e - 1}\right),

    so bootstrapping begins when :math:`q_t` passes 1. From there the loss relies on the
    model's own predictions more and more. With ``q_end <= 1`` bootstrapping never
    begins. Steps before 0 have the first values, steps past the end have the last.

    Args:
      total_steps: length of the run, at least 1.
      q_start: first :math:`q`, at least 0. 0.6 is the released value for CIFAR,
        0.4 for mini-WebVision.
      q_end: last :math:`q`, at least 0.
      steps_per_epoch: if given, the values are constant within an epoch, as in the
        released code. The last epoch then stays one epoch short of ``q_end``.

    All of them may be traced, so ``jax.vmap`` can sweep them.

    Returns:
      A function from the step, an integer or real scalar or array, to
      :class:`DALCoefficients` of the step's shape.

    Raises:
      InputError: if a length is below 1 or a q is negative (concrete values only).

    Example:
      >>> schedule = dal_schedule(total_steps=90)
      >>> q, bootstrap_weight = schedule(65)
      >>> print(f"{q:.3f} {bootstrap_weight:.3f}")
      1.250 0.500

    References:
      Li et al., 2023, arXiv:2303.11562.
    """
    _require(total_steps, 1, "total_steps")
    _require(q_start, 0, "q_start")
    _require(q_end, 0, "q_end")
    if steps_per_epoch is not None:
        _require(steps_per_epoch, 1, "steps_per_epoch")

    def schedule(step: jax.typing.ArrayLike) -> DALCoefficients:
        if steps_per_epoch is None:
            step = jnp.clip(step, 0, total_steps)
        else:
            step = jnp.clip(step, 0, total_steps - 1)
            step = step - step % steps_per_epoch
        dtype = jnp.result_type(float)
        progress = step.astype(dtype) / jnp.asarray(total_steps, dtype)
        start, end = jnp.asarray(q_start, dtype), jnp.asarray(q_end, dtype)
        # This form hits both ends exactly; start + (end - start) * progress does not.
        q = (1 - progress) * start + progress * end
        bootstraps = end > 1
        # The inner select keeps derivatives finite at end = 1.
        weight = jnp.maximum(q - 1, 0) / jnp.where(bootstraps, end - 1, 1)
        return DALCoefficients(q, jnp.where(bootstraps, weight, 0))

    return schedule


# The released recipe: 150 epochs of 50,000 images in batches of 128.
CIFAR_EPOCH = 391
CIFAR_STEPS = 150 * CIFAR_EPOCH
CIFAR_SCHEDULE: Schedule = dal_schedule(CIFAR_STEPS, steps_per_epoch=CIFAR_EPOCH)
