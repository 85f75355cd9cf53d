"""A loss from its name and hyper-parameters, in the one form that a trainer needs.

To add a loss, write it as ``loss(logits, labels, *, hyper=default, axis=-1,
where=None)`` in a module of this package and put one line into the table below. Its
keyword arguments are its hyper-parameters, with the range that their annotation says
(:mod:`dal_jax.hyperparameters`); any of them may be given as an optax schedule, and is
then evaluated at each step.

A loss that depends on the step by itself, draws random numbers, remembers examples or
has coefficients to report comes with a factory (:mod:`~dal_jax.losses.factories`). It
is passed what it asks for of the run: ``total_steps``, ``steps_per_epoch``,
``num_classes``, and for a loss with a memory ``num_examples``.

Published hyper-parameters go into ``presets.py``, with where they come from.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dal_jax import hyperparameters as declarations
from dal_jax.errors import InputError, nearest_hint, unknown_name
from dal_jax.hyperparameters import Hyperparameter
from dal_jax.losses import (
    active_passive,
    asymmetric,
    bootstrapping,
    correction,
    dal,
    factories,
    focusing,
    interpolating,
    memory,
    negative,
    normalized,
    sparse,
    tempered,
)
from dal_jax.losses.factories import Loss, StatefulLoss
from dal_jax.losses.presets import preset_values
from dal_jax.schedules import dal_schedule


class _Entry(NamedTuple):
    """How a loss is made; its factory and its functions declare hyper-parameters."""

    make: Callable[..., Any]
    functions: tuple[Callable[..., Any], ...]


def _plain(function: Callable[..., jax.Array]) -> _Entry:
    return _Entry(functools.partial(factories.make_plain, function), (function,))


def _correction(function: Callable[..., jax.Array]) -> _Entry:
    return _Entry(functools.partial(factories.make_correction, function), (function,))


_LOSSES: dict[str, _Entry] = {
    "ael": _plain(asymmetric.ael),
    "agce": _plain(asymmetric.agce),
    "anl_ce": _plain(active_passive.anl_ce),
    "aul": _plain(asymmetric.aul),
    "backward_correction": _correction(correction.backward_correction),
    "bi_tempered": _plain(tempered.bi_tempered),
    "ce": _plain(dal.ce),
    "ce_sr": _Entry(factories.make_ce_sr, (sparse.ce_sr,)),
    "dal": _Entry(factories.make_dal, (dal_schedule, dal.dal_loss)),
    "elr": _Entry(factories.make_elr, (memory.elr_targets, memory.elr)),
    "focal": _plain(focusing.focal),
    "forward_correction": _correction(correction.forward_correction),
    "gce": _Entry(factories.make_gce, (dal.gce,)),
    "hard_bootstrapping": _plain(bootstrapping.hard_bootstrapping),
    "js": _plain(interpolating.js),
    "mae": _plain(dal.mae),
    "nce": _plain(normalized.nce),
    "nce_agce": _plain(active_passive.nce_agce),
    "nce_rce": _plain(active_passive.nce_rce),
    "nfl": _plain(normalized.nfl),
    "nlnl": _Entry(factories.make_nlnl, (negative.nlnl,)),
    "nnce": _plain(normalized.nnce),
    "phuber_ce": _plain(interpolating.phuber_ce),
    "rce": _plain(active_passive.rce),
    "sce": _plain(active_passive.sce),
    "soft_bootstrapping": _plain(bootstrapping.soft_bootstrapping),
    "taylor_ce": _plain(interpolating.taylor_ce),
}
_STATEFUL = frozenset({"elr"})
_OF_THE_RUN = ("total_steps", "steps_per_epoch", "num_classes", "num_examples")
_NOT_HYPERPARAMETERS = ("axis", "where", "schedule", *_OF_THE_RUN)


def names() -> tuple[str, ...]:
    """Returns the name of every loss, in alphabetical order.

    Example:
      >>> "dal" in names()
      True
    """
    return tuple(sorted(_LOSSES))


def hyperparameters(name: str) -> dict[str, Hyperparameter]:
    """Returns what a loss declares of its hyper-parameters, by name.

    Raises:
      InputError: if there is no such loss.

    Example:
      >>> print(hyperparameters("gce")["q"].default, hyperparameters("gce")["q"].range)
      0.7 0 or more
    """
    if name not in _LOSSES:
        raise unknown_name("loss", name, _LOSSES)
    make, functions = _LOSSES[name]
    return declarations.declared(*functions, make, without=_NOT_HYPERPARAMETERS)


def accepted(name: str) -> tuple[str, ...]:
    """Returns the names of the hyper-parameters of a loss, which :func:`make` takes.

    Raises:
      InputError: if there is no such loss.

    Example:
      >>> accepted("dal")
      ('q_start', 'q_end', 'bootstrap', 'per_epoch')
    """
    return tuple(hyperparameters(name))


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
      steps_per_epoch: for ``dal`` and ``ce_sr``, which then hold their coefficients
        within an epoch, unless ``per_epoch=False``.
      num_classes: the number of classes, for the losses that need it beforehand.
      preset: published hyper-parameters to start from, see
        :func:`dal_jax.losses.presets.names`.
      **hyperparameters: the loss's own, see :func:`accepted`; they win over the
        preset's, and ``None`` is the same as not given. Real ones may be optax
        schedules, functions of the step, but for those of ``dal``, which make one.
        ``per_epoch``, whether scheduled coefficients hold within an epoch, may be given
        for every loss.

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
      >>> import jax.numpy as jnp
      >>> loss = make("gce", q=0.5)
      >>> value = loss(jnp.array([[2.0, 0.0, -1.0]]), jnp.array([0]), 0)
      >>> value.tolist()
      [0.163]
    """
    if name in _STATEFUL:
        raise InputError(
            f"loss {name!r} remembers every example, which make cannot pass on: "
            "use make_stateful"
        )
    return _make(
        name,
        preset,
        hyperparameters,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
    ).apply


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
      >>> import jax.numpy as jnp
      >>> loss = make_stateful("mae", num_examples=100)
      >>> logits, labels = jnp.zeros((2, 4)), jnp.array([0, 1])
      >>> index = jnp.array([7, 3])
      >>> value, memory = loss.apply(logits, labels, 0, loss.init(), index)
      >>> print(value, memory, loss.coefficients(0))
      [0.75 0.75] () {}
    """
    loss = _make(
        name,
        preset,
        hyperparameters,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
        num_examples=num_examples,
    )
    if isinstance(loss, StatefulLoss):
        return loss

    def apply(logits, labels, step, memory, index):
        drawn_for = {"index": index} if loss.draws else {}
        return loss.apply(logits, labels, step, **drawn_for), memory

    return StatefulLoss(lambda: (), apply, loss.coefficients)


def _make(
    name: str, preset: str | None, hyperparameters: dict[str, Any], **run: Any
) -> Any:
    values = _checked(name, preset, hyperparameters)
    make = _LOSSES[name].make
    asked = inspect.signature(make).parameters
    known = {key: value for key, value in run.items() if value is not None}
    return make(**values, **{key: known[key] for key in known if key in asked})


def _checked(name: str, preset: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """All hyper-parameters of a loss: those given, of the preset, and defaults."""
    known = hyperparameters(name)
    given = {key: value for key, value in given.items() if value is not None}
    if "per_epoch" not in known:
        given.pop("per_epoch", None)
    for key, value in given.items():
        if key not in known:
            raise InputError(
                f"loss {name!r} has no hyper-parameter {key!r}:"
                f"{nearest_hint(key, known)} it accepts {', '.join(known) or 'none'}"
            )
        known[key].check(key, value, name)
    defaults = {key: declared.default for key, declared in known.items()}
    from_preset = {} if preset is None else preset_values(preset, name)
    return defaults | from_preset | given
