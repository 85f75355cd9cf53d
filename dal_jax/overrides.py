"""Fields of a configuration as a command line sets them, ``--config.FIELD=VALUE``."""

import ast
import functools
import re
import typing
from typing import Any

from dal_jax.config import TrainConfig
from dal_jax.errors import InputError
from dal_jax.fields import loss_fields, type_name, typed_fields, unknown_field

_OVERRIDE = re.compile(
    r"--?(?P<no>no)?config\.(?P<field>[^=]*)(=(?P<value>.*))?", re.DOTALL
)
_BOOLEANS = ("true", "false")


def split(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Returns the arguments to parse, and the fields to set afterwards.

    The fields set afterwards are the loss's, whose types only the losses know, and
    those set to ``None``.
    """
    known = typed_fields()
    kept, later = [], {}
    arguments = iter(argv)
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        no, field, text = match.group("no", "field", "value") if match else ("", "", "")
        if field.startswith("loss.") and field in loss_fields():
            if text is None:
                text = "False" if no else next(arguments, "")
            later[field] = _loss_value(field, text)
        elif match and field not in known:
            raise unknown_field("config field", field)
        elif text == "None":
            if type(None) not in typing.get_args(known[field]):
                raise _cannot_be_none(field, known[field])
            later[field] = None
        else:
            kept.append(argument)
    return kept, later


def apply(values: dict[str, Any], config: TrainConfig) -> None:
    """Sets fields of a configuration, and checks those that hold several numbers."""
    for field, value in values.items():
        *parents, name = field.split(".")
        setattr(functools.reduce(getattr, parents, config), name, value)
    _check_tuples(config)


def _check_tuples(config: TrainConfig) -> None:
    # Flags of all other types refuse values of the wrong type themselves.
    for field, kind in typed_fields().items():
        if typing.get_origin(kind) is tuple:
            value = functools.reduce(getattr, field.split("."), config)
            item = typing.get_args(kind)[0]
            good = (int,) if item is int else (int, float)
            if not (isinstance(value, tuple) and all(type(x) in good for x in value)):
                raise InputError(
                    f"config field {field!r} is {value!r}: expected a tuple of "
                    f"{item.__name__}, written as --config.{field}=1,2"
                )


def _loss_value(field: str, text: str) -> Any:
    if field == "loss.name" and text == "None":
        raise _cannot_be_none(field, str)
    if field in ("loss.name", "loss.preset") and text != "None":
        return text
    return _literal(text)


def _cannot_be_none(field: str, kind: Any) -> InputError:
    return InputError(
        f"config field {field!r} cannot be None: expected {type_name(kind)}; "
        "give a value"
    )


def _literal(text: str) -> Any:
    """Reads a number, list or the like as Python; anything else is a name."""
    try:
        return ast.literal_eval(text.capitalize() if text in _BOOLEANS else text)
    except (ValueError, SyntaxError):
        return text
