"""A loss from its name and hyper-parameters, in the one form that a trainer needs.

To add a loss, write it as ``loss(logits, labels, *, hyper=default, axis=-1,
where=None)`` in a module of this package and put one line into a table below:

- ``FUNCTIONS`` for such a function. Its keyword arguments are its hyper-parameters;
  any of them may be given as an optax schedule, and is then evaluated at each step.
  ``num_classes`` is passed where the function has a keyword of that name.
- ``FACTORIES`` for a loss that depends on the step by itself, draws random numbers or
  has coefficients to report: ``factory(*, hyper=default, ...) -> PureLoss``.
  ``total_steps`` and ``num_classes`` are passed where the factory has keywords of
  these names.
- ``STATEFUL`` for a loss with a memory of every example: the same, with a
  ``num_examples`` keyword, and returning a :class:`StatefulLoss`.

Published hyper-parameters go into ``presets.py``, with where they come from.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dal_jax.errors import InputError, unknown_name
from dal_jax.losses import dal
from dal_jax.losses.presets import preset_values
from dal_jax.schedules import CIFAR_EPOCH, CIFAR_STEPS, dal_schedule

Loss = Callable[[jax.Array, jax.Array, jax.typing.ArrayLike], jax.Array]
Coefficients = Callable[[jax.typing.ArrayLike], dict[str, jax.Array]]


def _no_coefficients(step: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    del step
    return {}


class StatefulLoss(NamedTuple):
    """A loss that may remember something of every example, as a pair of functions.

    Attributes:
      init: ``init() -> memory``, a pytree; ``()`` for a loss without one.
      apply: ``apply(logits, labels, step, memory, index) -> (loss, memory)``, pure;
        ``index`` ``[...]`` holds the examples' places in the training set.
      coefficients: ``coefficients(step) -> dict`` of what moves, or what a report
        wants to compare with it, by name; ``{}`` for most losses.
    """

    init: Callable[[], Any]
    apply: Callable[..., tuple[jax.Array, Any]]
    coefficients: Coefficients = _no_coefficients


class PureLoss(NamedTuple):
    """A loss without memory, and the coefficients that it reports."""

    apply: Loss
    coefficients: Coefficients = _no_coefficients


def _dal(
    *,
    total_steps: int | None = None,
    q_start: jax.typing.ArrayLike = 0.6,
    q_end: jax.typing.ArrayLike = 1.5,
    steps_per_epoch: int | None = None,
    bootstrap: str = "soft",
) -> PureLoss:
    if total_steps is None:
        total_steps, steps_per_epoch = CIFAR_STEPS, steps_per_epoch or CIFAR_EPOCH
    schedule = dal_schedule(
        total_steps, q_start=q_start, q_end=q_end, steps_per_epoch=steps_per_epoch
    )

    def apply(logits, labels, step):
        return dal.dal_loss(
            logits, labels, step, schedule=schedule, bootstrap=bootstrap
        )

    return PureLoss(apply, lambda step: schedule(step)._asdict())


def _gce(*, q: Any = 0.7) -> PureLoss:
    def apply(logits, labels, step):
        return dal.gce(logits, labels, q=_at(step, q))

    def coefficients(step):
        return {"q": jnp.asarray(_at(step, q)), "bootstrap_weight": jnp.zeros(())}

    return PureLoss(apply, coefficients)


FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "ce": dal.ce,
    "mae": dal.mae,
}
FACTORIES: dict[str, Callable[..., PureLoss]] = {
    "dal": _dal,
    "gce": _gce,
}
STATEFUL: dict[str, Callable[..., StatefulLoss]] = {}

_NOT_HYPERPARAMETERS = ("axis", "where", "total_steps", "num_classes", "num_examples")


def names() -> tuple[str, ...]:
    """Returns the name of every loss, in alphabetical order.

    Example:
      >>> "dal" in names()
      True
    """
    return tuple(sorted({*FUNCTIONS, *FACTORIES, *STATEFUL}))


def accepted(name: str) -> tuple[str, ...]:
    """Returns the names of the hyper-parameters of a loss.

    Args:
      name: one of :func:`names`.

    Returns:
      What :func:`make` takes by keyword for this loss, besides ``total_steps``,
      ``num_classes`` and ``preset``.

    Raises:
      InputError: if there is no such loss.

    Example:
      >>> accepted("dal")
      ('q_start', 'q_end', 'steps_per_epoch', 'bootstrap')
    """
    return tuple(k for k in _keywords(name) if k not in _NOT_HYPERPARAMETERS)


def make(
    name: str,
    *,
    total_steps: int | None = None,
    num_classes: int | None = None,
    preset: str | None = None,
    **hyperparameters: Any,
) -> Loss:
    """Returns a loss by name, as a pure function of logits, labels and step.

    Args:
      name: one of :func:`names`.
      total_steps: the run's length, for the losses that follow a schedule. Without
        it ``dal`` takes the released CIFAR recipe's, 150 epochs of 391 steps.
      num_classes: the number of classes, for the losses that need it beforehand.
      preset: published hyper-parameters to start from, see
        :func:`dal_jax.losses.presets.names`.
      **hyperparameters: the loss's own, see :func:`accepted`; they win over the
        preset's. Those of losses without a schedule of their own may be optax
        schedules, functions of the step.

    Returns:
      ``loss(logits, labels, step)`` with logits ``[..., num_classes]``, integer labels
      or distributions and a step that may be traced; the result has shape ``[...]``.

    Raises:
      InputError: if the loss, the preset or a hyper-parameter is unknown, or if the
        loss needs :func:`make_stateful`.

    Example:
      >>> import numpy as np
      >>> import jax.numpy as jnp
      >>> loss = make("gce", q=0.5)
      >>> value = loss(jnp.array([[2.0, 0.0, -1.0]]), jnp.array([0]), 0)
      >>> print(np.array(value).round(3))
      [0.163]
    """
    if name in STATEFUL:
        raise InputError(
            f"loss {name!r} remembers every example, which make cannot pass on: "
            "use make_stateful"
        )
    return _make_pure(name, preset, hyperparameters, total_steps, num_classes).apply


def make_stateful(
    name: str,
    *,
    num_examples: int,
    total_steps: int | None = None,
    num_classes: int | None = None,
    preset: str | None = None,
    **hyperparameters: Any,
) -> StatefulLoss:
    """Returns any loss in the form that may carry a memory of every example.

    Args:
      name: one of :func:`names`; a loss without memory is wrapped.
      num_examples: size of the training set that ``index`` refers to.
      total_steps: as for :func:`make`.
      num_classes: as for :func:`make`.
      preset: as for :func:`make`.
      **hyperparameters: as for :func:`make`.

    Returns:
      The loss as a :class:`StatefulLoss`.

    Raises:
      InputError: if the loss, the preset or a hyper-parameter is unknown.

    Example:
      >>> import numpy as np
      >>> import jax.numpy as jnp
      >>> loss = make_stateful("mae", num_examples=100)
      >>> logits, labels = jnp.zeros((2, 4)), jnp.array([0, 1])
      >>> index = jnp.array([7, 3])
      >>> value, memory = loss.apply(logits, labels, 0, loss.init(), index)
      >>> print(value, memory, loss.coefficients(0))
      [0.75 0.75] () {}
    """
    if name in STATEFUL:
        given = _checked(name, preset, hyperparameters)
        given |= _wanted(
            name,
            total_steps=total_steps,
            num_classes=num_classes,
            num_examples=num_examples,
        )
        return STATEFUL[name](**given)
    pure = _make_pure(name, preset, hyperparameters, total_steps, num_classes)

    def apply(logits, labels, step, memory, index):
        del index
        return pure.apply(logits, labels, step), memory

    return StatefulLoss(lambda: (), apply, pure.coefficients)


def _make_pure(
    name: str,
    preset: str | None,
    hyperparameters: dict[str, Any],
    total_steps: int | None,
    num_classes: int | None,
) -> PureLoss:
    given = _checked(name, preset, hyperparameters)
    given |= _wanted(name, total_steps=total_steps, num_classes=num_classes)
    if name in FACTORIES:
        return FACTORIES[name](**given)
    function = FUNCTIONS[name]

    def apply(logits, labels, step):
        at_step = {k: _at(step, v) for k, v in given.items()}
        return function(logits, labels, **at_step)

    return PureLoss(apply)


def _at(step: jax.typing.ArrayLike, value: Any) -> Any:
    return value(step) if callable(value) else value


def _keywords(name: str) -> tuple[str, ...]:
    tables = FUNCTIONS | FACTORIES | STATEFUL
    if name not in tables:
        raise unknown_name("loss", name, tables)
    parameters = inspect.signature(tables[name]).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def _checked(name: str, preset: str | None, hyperparameters: dict) -> dict[str, Any]:
    known = accepted(name)
    unknown = [key for key in hyperparameters if key not in known]
    if unknown:
        raise InputError(
            f"loss {name!r} has no hyper-parameter {unknown[0]!r}: "
            f"it accepts {', '.join(known) or 'none'}"
        )
    from_preset = {} if preset is None else preset_values(preset, name)
    return from_preset | hyperparameters


def _wanted(name: str, **offered: Any) -> dict[str, Any]:
    return {k: v for k, v in offered.items() if v is not None and k in _keywords(name)}
