"""A loss from its name and hyper-parameters, in the one form that a trainer needs.

To add a loss, write it as ``loss(logits, labels, *, hyper=default, axis=-1,
where=None)`` in a module of this package and put one line into a table below:

- ``FUNCTIONS`` for such a function. Its keyword arguments are its hyper-parameters;
  any of them may be given as an optax schedule, and is then evaluated at each step.
  ``num_classes`` is passed where the function has a keyword of that name.
- ``FACTORIES`` for a loss that depends on the step by itself, draws random numbers or
  has coefficients to report: ``factory(*, hyper=default, ...) -> PureLoss``.
  ``total_steps``, ``steps_per_epoch`` and ``num_classes`` are passed where the factory
  has keywords of these names.
- ``STATEFUL`` for a loss with a memory of every example: the same, with a
  ``num_examples`` keyword, and returning a :class:`StatefulLoss`.

Published hyper-parameters go into ``presets.py``, with where they come from, and the
range of a hyper-parameter into ``ranges.py``, so that a wrong value ends a run before
it begins.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax

from dal_jax.errors import InputError, unknown_name
from dal_jax.losses import (
    active_passive,
    asymmetric,
    bootstrapping,
    dal,
    factories,
    focusing,
    interpolating,
    normalized,
    tempered,
)
from dal_jax.losses.factories import Loss, PureLoss, StatefulLoss, at_step
from dal_jax.losses.presets import preset_values
from dal_jax.losses.ranges import check_ranges

FUNCTIONS: dict[str, Callable[..., jax.Array]] = {
    "ael": asymmetric.ael,
    "agce": asymmetric.agce,
    "anl_ce": active_passive.anl_ce,
    "aul": asymmetric.aul,
    "bi_tempered": tempered.bi_tempered,
    "ce": dal.ce,
    "focal": focusing.focal,
    "hard_bootstrapping": bootstrapping.hard_bootstrapping,
    "js": interpolating.js,
    "mae": dal.mae,
    "nce": normalized.nce,
    "nce_agce": active_passive.nce_agce,
    "nce_rce": active_passive.nce_rce,
    "nfl": normalized.nfl,
    "nnce": normalized.nnce,
    "phuber_ce": interpolating.phuber_ce,
    "rce": active_passive.rce,
    "sce": active_passive.sce,
    "soft_bootstrapping": bootstrapping.soft_bootstrapping,
    "taylor_ce": interpolating.taylor_ce,
}
FACTORIES: dict[str, Callable[..., PureLoss]] = {
    "backward_correction": factories.make_backward_correction,
    "ce_sr": factories.make_ce_sr,
    "dal": factories.make_dal,
    "forward_correction": factories.make_forward_correction,
    "gce": factories.make_gce,
    "nlnl": factories.make_nlnl,
}
STATEFUL: dict[str, Callable[..., StatefulLoss]] = {"elr": factories.make_elr}

_OF_THE_RUN = ("total_steps", "steps_per_epoch", "num_classes", "num_examples")
_NOT_HYPERPARAMETERS = ("axis", "where", *_OF_THE_RUN)


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
      What :func:`make` takes by keyword for this loss, besides the keywords that it
      has for all.

    Raises:
      InputError: if there is no such loss.

    Example:
      >>> accepted("dal")
      ('q_start', 'q_end', 'per_epoch', 'bootstrap')
    """
    return tuple(k for k in _keywords(name) if k not in _NOT_HYPERPARAMETERS)


def make(
    name: str,
    *,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    num_classes: int | None = None,
    preset: str | None = None,
    **hyperparameters: Any,
) -> Loss:
    """Returns a loss by name, as a pure function of logits, labels and step.

    Args:
      name: one of :func:`names`.
      total_steps: the run's length, for the losses that follow a schedule. Without
        it ``dal`` takes the released CIFAR recipe's, 150 epochs of 391 steps.
      steps_per_epoch: for the losses that change from epoch to epoch: ``dal`` and
        ``ce_sr`` then hold their coefficients within one, unless ``per_epoch=False``.
      num_classes: the number of classes, for the losses that need it beforehand.
      preset: published hyper-parameters to start from, see
        :func:`dal_jax.losses.presets.names`.
      **hyperparameters: the loss's own, see :func:`accepted`; they win over the
        preset's. Real ones may be optax schedules, functions of the step, but for
        those that make a schedule themselves, as of ``dal``.

    Returns:
      ``loss(logits, labels, step)`` with logits ``[..., num_classes]``, integer labels
      or distributions and a step that may be traced; the result has shape ``[...]``.
      ``nlnl`` draws by the step and an example's place in ``labels``, which differs
      between batches; :func:`make_stateful` draws by its place in the training set.

    Raises:
      InputError: if the loss, the preset or a hyper-parameter is unknown, if a
        hyper-parameter is out of its range, or if the loss needs
        :func:`make_stateful`.

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
    given = _checked(name, preset, hyperparameters)
    given |= _wanted(
        name,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
    )
    return _make_pure(name, given).apply


def make_stateful(
    name: str,
    *,
    num_examples: int,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    num_classes: int | None = None,
    preset: str | None = None,
    **hyperparameters: Any,
) -> StatefulLoss:
    """Returns any loss in the form that may carry a memory of every example.

    Args:
      name: one of :func:`names`; a loss without memory is wrapped.
      num_examples: size of the training set that ``index`` refers to.
      total_steps: as for :func:`make`.
      steps_per_epoch: as for :func:`make`.
      num_classes: as for :func:`make`.
      preset: as for :func:`make`.
      **hyperparameters: as for :func:`make`.

    Returns:
      The loss as a :class:`StatefulLoss`.

    Raises:
      InputError: as for :func:`make`.

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
    given = _checked(name, preset, hyperparameters)
    given |= _wanted(
        name,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
        num_examples=num_examples,
    )
    if name in STATEFUL:
        return STATEFUL[name](**given)
    pure = _make_pure(name, given)

    def apply(logits, labels, step, memory, index):
        drawn_for = {"index": index} if pure.draws else {}
        return pure.apply(logits, labels, step, **drawn_for), memory

    return StatefulLoss(lambda: (), apply, pure.coefficients)


def _make_pure(name: str, given: dict[str, Any]) -> PureLoss:
    if name in FACTORIES:
        return FACTORIES[name](**given)
    function = FUNCTIONS[name]

    def apply(logits, labels, step):
        now = {k: at_step(v, step) for k, v in given.items()}
        return function(logits, labels, **now)

    return PureLoss(apply)


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
    check_ranges(name, hyperparameters)
    return from_preset | hyperparameters


def _wanted(name: str, **offered: Any) -> dict[str, Any]:
    return {k: v for k, v in offered.items() if v is not None and k in _keywords(name)}
