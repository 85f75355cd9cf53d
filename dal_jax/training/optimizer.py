"""Configuration to optax: the gradient transformation and its learning rate."""

import jax
import jax.numpy as jnp
import optax

from dal_jax.config import OptimizerConfig
from dal_jax.errors import InputError, unknown_name

_SCHEDULES = ("cosine", "exponential", "constant")


def make_learning_rate(
    config: OptimizerConfig, num_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      config: ``schedule`` names the curve: ``cosine`` falls to 0 at the last step,
        ``exponential`` is multiplied by ``decay_rate`` each epoch, ``constant`` stays.
        ``warmup_epochs`` come before it, linear from 0. With ``per_epoch`` the curve
        is held within an epoch, as PyTorch's schedulers are usually stepped.
      num_epochs: the run's length.
      steps_per_epoch: steps in one epoch.

    Raises:
      InputError: an unknown schedule, or numbers that make none.
    """
    _check(config, num_epochs)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    steps = num_epochs * steps_per_epoch - warmup_steps
    peak = config.learning_rate
    if config.schedule == "cosine":
        curve = optax.cosine_decay_schedule(peak, max(steps, 1))
    elif config.schedule == "exponential":
        curve = optax.exponential_decay(peak, steps_per_epoch, config.decay_rate)
    else:
        curve = optax.constant_schedule(peak)
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, peak, warmup_steps)
        curve = optax.join_schedules([warmup, curve], [warmup_steps])
    if config.per_epoch:
        return lambda step: curve(
            jnp.asarray(step) // steps_per_epoch * steps_per_epoch
        )
    return curve


def make_optimizer(
    config: OptimizerConfig, learning_rate: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Returns momentum SGD in the order that PyTorch's does it.

    The gradient is clipped by its global norm (``clip_norm``), ``weight_decay`` times
    the parameters is added, the momentum accumulates the sum, and the learning rate of
    the ``step`` that ``update`` is given scales the result: there is no second count
    that a skipped step could part from the state's.
    """
    clip = [] if config.clip_norm is None else [config.clip_norm]
    return optax.chain(
        *(optax.clip_by_global_norm(norm) for norm in clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum, nesterov=config.nesterov),
        _scale_by_rate_of_step(learning_rate),
    )


def _scale_by_rate_of_step(
    learning_rate: optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, **extra_args):
        del params
        rate = jnp.asarray(learning_rate(extra_args["step"]))
        return jax.tree.map(lambda x: -rate * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def _check(config: OptimizerConfig, num_epochs: int) -> None:
    if config.schedule not in _SCHEDULES:
        raise unknown_name("optimizer.schedule", config.schedule, _SCHEDULES)
    c = config
    for name, good, expected in (
        ("learning_rate", c.learning_rate > 0, "more than 0"),
        ("momentum", 0 <= c.momentum < 1, "at least 0 and less than 1"),
        ("weight_decay", c.weight_decay >= 0, "at least 0"),
        ("decay_rate", 0 < c.decay_rate <= 1, "more than 0 and at most 1"),
        ("clip_norm", c.clip_norm is None or c.clip_norm > 0, "more than 0, or none"),
        (
            "warmup_epochs",
            0 <= c.warmup_epochs <= max(num_epochs, 1),
            "between 0 and num_epochs",
        ),
    ):
        if not good:
            raise InputError(
                f"optimizer.{name}={getattr(config, name)} is out of range: expected "
                f"{expected}; give another --config.optimizer.{name}"
            )
