"""Optimizers and learning rates by name, as optax transformations."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dal_jax.errors import InputError, unknown_name

NAMES = ("adamw", "lion", "sgd")
SCHEDULES = ("cosine", "exponential", "step", "constant")


def learning_rate_schedule(
    name: str,
    learning_rate: float,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    decay_rate: float = 0.97,
    decay_epochs: Sequence[float] = (),
    warmup_epochs: float = 0.0,
    per_epoch: bool = False,
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      name: ``cosine`` falls to 0 at the end, ``exponential`` is multiplied by
        ``decay_rate`` each epoch, ``step`` after each of ``decay_epochs``;
        ``constant`` does not change.
      learning_rate: the largest value.
      num_epochs: the run's length.
      steps_per_epoch: steps in one epoch.
      decay_rate: for ``exponential`` and ``step``.
      decay_epochs: for ``step``, ascending, counted from the run's start.
      warmup_epochs: length of a linear warm-up from 0, before the curve.
      per_epoch: hold the learning rate constant within an epoch, as PyTorch's
        schedulers usually do.

    Raises:
      InputError: an unknown schedule, or a number out of range.

    Example:
      >>> rate = learning_rate_schedule("cosine", 0.1, num_epochs=2, steps_per_epoch=5)
      >>> print(rate(0), rate(5).round(3), rate(10))
      0.1 0.05 0.0
    """
    if name not in SCHEDULES:
        raise unknown_name("optimizer.schedule", name, SCHEDULES)
    _check_range("learning_rate", learning_rate, learning_rate > 0, "more than 0")
    _check_range(
        "decay_rate", decay_rate, 0 < decay_rate <= 1, "more than 0 and at most 1"
    )
    _check_range(
        "warmup_epochs",
        warmup_epochs,
        0 <= warmup_epochs <= max(num_epochs, 1),
        "between 0 and num_epochs",
    )
    warmup_steps = round(warmup_epochs * steps_per_epoch)
    steps = num_epochs * steps_per_epoch - warmup_steps
    if name == "cosine":
        curve = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
    elif name == "exponential":
        curve = optax.exponential_decay(learning_rate, steps_per_epoch, decay_rate)
    elif name == "step":
        _check_range(
            "decay_epochs",
            tuple(decay_epochs),
            bool(decay_epochs) and sorted(set(decay_epochs)) == list(decay_epochs),
            "one or more, ascending",
        )
        after = [round(epoch * steps_per_epoch) for epoch in decay_epochs]
        curve = optax.piecewise_constant_schedule(
            learning_rate, {step - warmup_steps: decay_rate for step in after}
        )
    else:
        curve = optax.constant_schedule(learning_rate)
    if warmup_steps:
        warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
        curve = optax.join_schedules([warmup, curve], [warmup_steps])
    if per_epoch:
        return lambda step: curve(
            jnp.asarray(step) // steps_per_epoch * steps_per_epoch
        )
    return curve


def create(
    name: str,
    learning_rate: optax.Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    b1: float | None = None,
    b2: float | None = None,
    weight_decay: float = 0.0,
    decay_vectors: bool = True,
    clip_norm: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer whose ``update`` takes the ``step`` as an argument.

    First the gradient is clipped by its global norm (``clip_norm``). ``sgd`` then works
    like PyTorch's: it adds ``weight_decay`` times the parameters, and the momentum
    accumulates the sum. ``adamw`` (Loshchilov and Hutter, 2019) and ``lion`` (Chen et
    al., 2023) add the decay after their own scaling, so it is decoupled from the
    gradient. Last, the learning rate at ``step`` scales the result. The optimizer keeps
    no step count for the learning rate, so a skipped step cannot put it out of sync.

    Args:
      name: one of :data:`NAMES`.
      learning_rate: a function of the step.
      momentum: for ``sgd``.
      nesterov: for ``sgd``.
      b1: for ``adamw`` and ``lion``; default 0.9.
      b2: for ``adamw`` and ``lion``; default 0.999 for ``adamw``, 0.99 for ``lion``.
      weight_decay: see above.
      decay_vectors: whether parameters with fewer than two dimensions (biases and the
        scales of normalisation) decay too.
      clip_norm: the largest global norm of the gradient, or ``None``.

    Raises:
      InputError: an unknown name, or a number out of range.

    Example:
      >>> optimizer = create("adamw", lambda step: 1e-3, weight_decay=0.01)
      >>> params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
      >>> updates, state = optimizer.update(params, optimizer.init(params), params,
      ...                                   step=0)
      >>> print(updates["bias"].round(5))
      [-0.00101 -0.00101]
    """
    if name not in NAMES:
        raise unknown_name("optimizer", name, NAMES)
    _check_range("momentum", momentum, 0 <= momentum < 1, "at least 0 and less than 1")
    for field, value in (("b1", b1), ("b2", b2)):
        fits = value is None or 0 <= value < 1
        _check_range(field, value, fits, "at least 0 and less than 1")
    _check_range("weight_decay", weight_decay, weight_decay >= 0, "at least 0")
    fits = clip_norm is None or clip_norm > 0
    _check_range("clip_norm", clip_norm, fits, "more than 0, or none")

    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    decay = optax.add_decayed_weights(
        weight_decay, mask=None if decay_vectors else _matrices
    )
    moments: dict[str, Any] = {
        k: v for k, v in (("b1", b1), ("b2", b2)) if v is not None
    }
    inner = {
        "sgd": (decay, optax.trace(momentum, nesterov=nesterov)),
        "adamw": (optax.scale_by_adam(**moments), decay),
        "lion": (optax.scale_by_lion(**moments), decay),
    }[name]
    return optax.chain(*clip, *inner, _scale_by_rate_of_step(learning_rate))


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda parameter: parameter.ndim > 1, params)


def _scale_by_rate_of_step(
    learning_rate: optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, **extra_args):
        del params
        rate = jnp.asarray(learning_rate(extra_args["step"]))
        return jax.tree.map(lambda x: -rate * x, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def head_alone(
    optimizer: optax.GradientTransformation, is_head: Callable[[Any], bool]
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer that changes, and keeps moments of, the last layer only.

    Args:
      optimizer: for the last layer.
      is_head: whether the parameter at a path of JAX's keys belongs to it.
    """

    def parts(params: Any) -> Any:
        return jax.tree.map_with_path(
            lambda path, _: "head" if is_head(path) else "backbone", params
        )

    return optax.partition({"head": optimizer, "backbone": optax.set_to_zero()}, parts)


def scale_backbone(
    rate: float, from_step: int, is_head: Callable[[Any], bool]
) -> optax.GradientTransformationExtraArgs:
    """Returns a last stage of an optimizer that slows what is below the last layer.

    Its updates are multiplied by ``rate``, and are zero before ``from_step``. Moments
    are gathered from the first step on, so that those of ``adamw`` are not biased.

    Args:
      rate: more than 0.
      from_step: when the backbone begins to learn.
      is_head: whether the parameter at a path of JAX's keys belongs to the last layer.

    Example:
      >>> slower = scale_backbone(0.1, 5, lambda path: path[0].key == "head")
      >>> updates = {"head": jnp.ones(()), "stem": jnp.ones(())}
      >>> for step in 4, 5:
      ...     now, _ = slower.update(updates, slower.init(updates), step=step)
      ...     print(now["head"], now["stem"].round(3))
      1.0 0.0
      1.0 0.1
    """
    _check_range("backbone_rate", rate, rate > 0, "more than 0")

    def update(updates, state, params=None, **extra_args):
        del params
        now = jnp.where(extra_args["step"] >= from_step, rate, 0.0)
        updates = jax.tree.map_with_path(
            lambda path, x: x if is_head(path) else now.astype(x.dtype) * x, updates
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: (), update)


def _check_range(field: str, value: Any, good: bool, expected: str) -> None:
    if not good:
        raise InputError(
            f"optimizer.{field}={value} is out of range: expected {expected}; change "
            f"--config.optimizer.{field}"
        )
