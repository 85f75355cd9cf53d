"""Swept fields: from ``FIELD:VALUE,VALUE`` to values of the field's kind."""

import ast
import runpy
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dal_jax.errors import InputError
from dal_jax.fields import fields, type_name, unknown_field

# What the command's other flags cross.
_OTHERWISE = {
    "seed": "--seeds",
    "loss.name": "--losses",
    "noise.kind": "--noises",
    "noise.rate": "--noises",
    "noise.path": "--noises",
}


class Sweep(typing.NamedTuple):
    """A field of the configuration, and the values that it takes in turn."""

    field: str
    values: tuple[Any, ...]


def parse_sweeps(
    texts: Iterable[str], named: Mapping[str, Sequence[str]] | None = None
) -> tuple[Sweep, ...]:
    """Returns the sweeps that some texts stand for.

    Args:
      texts: ``FIELD:VALUE,VALUE``, or the name of a sweep.
      named: sweeps by name, see :func:`named_sweeps`.

    Raises:
      InputError: an unknown field or name, a value of the wrong kind, or a field that
        is swept twice.

    Example:
      >>> parse_sweeps(["loss.q_end:1.2,1.5", "optimizer.nesterov:true"])[0]
      Sweep(field='loss.q_end', values=(1.2, 1.5))
    """
    named = named or {}
    sweeps: dict[str, Sweep] = {}
    for text in texts:
        if ":" not in text and text not in named:
            raise InputError(
                f"sweep {text!r}: expected FIELD:VALUE,VALUE such as "
                f"loss.q_end:1.2,1.5, or a sweep that the configuration names: "
                f"{', '.join(sorted(named)) or 'none'}; give one of them"
            )
        for single in named.get(text, [text]):
            sweep = _parse(single)
            if sweep.field in sweeps:
                raise InputError(
                    f"{sweep.field} is swept twice: expected one --sweep a field; give "
                    "all its values in one"
                )
            sweeps[sweep.field] = sweep
    return tuple(sweeps.values())


def named_sweeps(config_file: Path) -> dict[str, Sequence[str]]:
    """Returns what ``get_sweeps()`` in a configuration file returns, if it has one.

    That is, by name, what the ``--sweep`` flags would say.
    """
    get_sweeps = runpy.run_path(str(config_file)).get("get_sweeps")
    return get_sweeps() if get_sweeps else {}


def refuse_crossed(words: Iterable[str]) -> None:
    """Raises InputError for a field of a command line that has a flag of its own.

    The comparison would set it in every run, whatever was given for it.

    Example:
      >>> refuse_crossed(["dal-jax", "compare", "--config.seed=3"])
      Traceback (most recent call last):
      dal_jax.errors.InputError: --config.seed=3 has no effect in a comparison: expected
      --seeds for it; use that
    """
    for word in words:
        field = word.partition("=")[0].lstrip("-").removeprefix("config.")
        if "config." in word and field in _OTHERWISE:
            raise InputError(
                f"{word} has no effect in a comparison: expected {_OTHERWISE[field]} "
                "for it; use that"
            )


def _parse(text: str) -> Sweep:
    field, _, values = text.partition(":")
    if field in _OTHERWISE:
        raise InputError(
            f"{field} is not swept: expected {_OTHERWISE[field]} for it; use that"
        )
    kinds = fields()
    if field not in kinds:
        raise unknown_field("swept field", field)
    parsed = tuple(_value(field, kinds[field], value) for value in _split(values))
    if not parsed or len(set(map(repr, parsed))) < len(parsed):
        raise InputError(
            f"sweep {text!r}: expected one or more values, each once; write "
            f"{field}:VALUE,VALUE"
        )
    return Sweep(field, parsed)


def _split(text: str) -> list[Any]:
    """Splits at commas, those within parentheses excepted; reads numbers as Python."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [_literal(part.strip()) for part in parts if part.strip()]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text  # a name


def _value(field: str, kind: Any, value: Any) -> Any:
    """Returns a value as a field of this kind holds it; None is no kind: any value."""
    if kind is None:
        return value
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None and types.NoneType in options:
        return None
    expected = f"expected {type_name(kind)}; give such values"
    for option in options:
        if typing.get_origin(option) is tuple:
            expected = "expected tuples of numbers; write one as (64,) or (64,32)"
            item = typing.get_args(option)[0]
            good = (int,) if item is int else (int, float)
            if isinstance(value, tuple) and all(type(x) in good for x in value):
                return value
        elif option is float and isinstance(value, int | float):
            if not isinstance(value, bool):
                return float(value)
        elif type(value) is option:
            return value
    raise InputError(f"{field}={value} is of the wrong kind: {expected}")
