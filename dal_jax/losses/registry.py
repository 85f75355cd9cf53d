"""A loss from its name and hyper-parameters, in the form that a trainer needs.

To add a loss, write it as ``loss(logits, labels, *, hyper=default, axis=-1,
where=None)`` in a module of this package and add one line to the table below. Its
keyword arguments are its hyper-parameters, and their annotations give the ranges
(:mod:`dal_jax.hyperparameters`). A real one may be given as a function of the step,
such as an optax schedule; it is then evaluated at each step.

A loss that depends on the step itself, draws random numbers, remembers examples or
reports coefficients needs a factory (:mod:`~dal_jax.losses.factories`). The factory can
ask for ``total_steps``, ``steps_per_epoch``, ``num_classes`` and, for a loss with a
memory, ``num_examples``.

Published hyper-parameters go into ``presets.py``, with their source.
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
    """A loss's factory, and the functions that declare its hyper-parameters with it."""

    make: Callable[..., Any]
    functions: tuple[Callable[..., Any], ...]


def _made(make: Callable[..., Any], function: Callable[..., jax.Array]) -> _Entry:
    return _Entry(functools.partial(make, function), (function,))


_plain = functools.partial(_made, factories.make_plain)
_clamped = functools.partial(_made, factories.make_clamped)
_correction = functools.partial(_made, factories.make_correction)


_LOSSES: dict[str, _Entry] = {
    "ael": _plain(asymmetric.ael),
    "agce": _plain(asymmetric.agce),
    "anl_ce": _clamped(active_passive.anl_ce),
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
    "nnce": _clamped(normalized.nnce),
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
    """Returns the declarations of a loss's hyper-parameters, by name.

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
    """Returns the names of the hyper-parameters that :func:`make` takes for a loss.

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
      name: one of :func:`names`, except ``elr``.
      total_steps: the run's length, for losses that follow a schedule. Without it,
        ``dal`` takes the length of the released CIFAR recipe, 150 epochs of 391 steps.
      steps_per_epoch: for ``dal`` and ``ce_sr``, whose coefficients then stay constant
        within an epoch, unless ``per_epoch=False``.
      num_classes: the number of classes, for losses that need it in advance.
      preset: published hyper-parameters to start from, see
        :func:`dal_jax.losses.presets.names`.
      **hyperparameters: the loss's own, see :func:`accepted`. They override the
        preset's; ``None`` is the same as not given. Real ones may be functions of the
        step, such as optax schedules, except those of ``dal``, which make a schedule.
        Every loss accepts ``per_epoch`` (whether scheduled coefficients stay constant
        within an epoch).

    Returns:
      ``loss(logits, labels, step)``. Logits are ``[..., num_classes]``, labels integers
      or distributions, and the step may be traced; the result has shape ``[...]``.
      ``nlnl`` draws by the step and an example's position in ``labels``, which differs
      between batches; with :func:`make_stateful` it draws by the position in the
      training set.

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
            f"loss {name!r} remembers every example: expected make_stateful, because "
            "make has no place for a memory; use make_stateful"
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
    """Returns any loss in the form that can carry a memory of every example.

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
    """All hyper-parameters of a loss: given, then from the preset, then defaults."""
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
