"""The fields of a configuration as the command line names them: ``noise.rate``."""

import dataclasses
import difflib
import functools
import typing
from typing import Any

from dal_jax.config import LossConfig, TrainConfig
from dal_jax.errors import InputError


def fields() -> dict[str, Any]:
    """Returns every field of a configuration with its type, None for a loss's own.

    Example:
      >>> fields()["num_epochs"], fields()["loss.q_end"]
      (<class 'int'>, None)
    """
    return typed_fields() | dict.fromkeys(loss_fields())


def typed_fields() -> dict[str, Any]:
    """Returns all fields but the loss's, with their types."""
    return dict(_leaves(TrainConfig))


@functools.cache
def loss_fields() -> dict[str, str]:
    """Returns the fields of a loss's configuration, and the losses that have them."""
    from dal_jax import losses  # imports jax

    users: dict[str, list[str]] = {}
    for name in losses.names():
        for hyperparameter in losses.accepted(name):
            users.setdefault(f"loss.{hyperparameter}", []).append(name)
    named = {"loss.name": "str", "loss.preset": "str"}
    return named | {field: ", ".join(users[field]) for field in sorted(users)}


def choices() -> dict[str, tuple[str, ...]]:
    """Returns what each part of a run may be: the names, by the field that takes one.

    Example:
      >>> choices()["optimizer.name"]
      ('adamw', 'lion', 'sgd')
    """
    from dal_jax import losses, models, noise, optimizers  # import jax
    from dal_jax.data import loading
    from dal_jax.losses import presets

    return {
        "dataset.name": loading.names(),
        "loss.name": losses.names(),
        "loss.preset": presets.names(),
        "model.name": models.names(),
        "noise.kind": noise.kinds(),
        "optimizer.name": optimizers.NAMES,
    }


def unknown_field(what: str, field: str) -> InputError:
    """Returns the error for an unknown field; all fields would fill a page.

    Args:
      what: the kind of field, as the user would call it.
      field: what was given.

    Example:
      >>> print(unknown_field("config field", "num_epoch"))
      unknown config field 'num_epoch': did you mean 'num_epochs'? dal-jax train --help
      lists all fields
      >>> print(unknown_field("config field", "rate"))
      unknown config field 'rate': did you mean 'noise.rate'? dal-jax train --help lists
      all fields
    """
    known = list(fields())
    below = [name for name in known if name.startswith(f"{field}.")]
    elsewhere = [name for name in known if name.split(".")[-1] == field.split(".")[-1]]
    nearest = below or elsewhere or difflib.get_close_matches(field, known, n=1)
    named = " or ".join(map(repr, nearest[:3]))
    hint = f"did you mean {named}?" if named else "expected another name;"
    return InputError(
        f"unknown {what} {field!r}: {hint} dal-jax train --help lists all fields"
    )


def type_name(annotation: Any) -> str:
    """Returns how help and errors name a field's type."""
    return getattr(annotation, "__name__", str(annotation))


def _leaves(kind: type, prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if field.type is LossConfig:
            continue  # see loss_fields
        if dataclasses.is_dataclass(field.type):
            leaves += _leaves(typing.cast(type, field.type), name + ".")
        else:
            leaves.append((name, field.type))
    return leaves
