"""What the commands share: flags, one clear line for a wrong input, quiet start-up."""

import dataclasses
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from dal_jax.config import TrainConfig
from dal_jax.errors import InputError, unknown_name

_OVERRIDE = re.compile(r"--?config\.(?P<field>[\w.]+)(=(?P<value>.*))?", re.DOTALL)


def run_command(
    command: Callable[[TrainConfig, flags.FlagValues], None],
    define_flags: Callable[[flags.FlagValues], None],
    *,
    description: str,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses the command line, runs a command and ends the process.

    Exit status 0 where the command returns, 2 after an :class:`InputError` (its line
    is printed on standard error).

    Args:
      command: called with the configuration and the flags' values.
      define_flags: adds the command's own flags.
      description: printed by ``--help``.
      argv: the command line, by default the process's.
    """
    argv = list(sys.argv if argv is None else argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", _default_config(), "A file with get_config().", flag_values=values
    )
    define_flags(values)
    if {"--help", "-h", "--helpfull"} & set(argv):
        print(description.strip(), "\n\nFlags:\n", values.main_module_help())
        print("  --config.FIELD=VALUE overrides a field:\n", _fields_help())
        return
    try:
        command(_parse(argv, values), values)
    except InputError as error:
        end(error, 2)


def end(error: Exception, status: int) -> typing.NoReturn:
    """Ends the process with an error's one line on standard error."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(status)


def _default_config() -> str:
    return str(Path("configs") / "digits.py")


def _parse(argv: list[str], values: flags.FlagValues) -> TrainConfig:
    """Returns the configuration with its overrides; fills in the flags' values."""
    known = dict(_leaf_fields(TrainConfig))
    cleared, kept = [], argv[:1]
    for argument in argv[1:]:
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            kept.append(argument)
            continue
        field, value = match["field"], match["value"]
        if field not in known:
            raise unknown_name("config field", field, known)
        if value in ("None", "none") and _is_optional(known[field]):
            cleared.append(field)
        else:
            kept.append(argument)
    path = next(
        (a.split("=", 1)[1] for a in kept if re.fullmatch(r"--?config=.*", a)), None
    )
    if path is not None and not Path(path).is_file():
        raise InputError(
            f"config file {path!r} not found: expected a Python file with "
            "get_config(); give another --config"
        )
    try:
        rest = values(kept)[1:]
        config = values["config"].value
    except flags.Error as error:
        raise InputError(_flag_message(error)) from None
    if rest:
        raise InputError(
            f"unexpected argument {rest[0]!r}: expected only --flags; "
            "see --help, and write overrides as --config.FIELD=VALUE"
        )
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"config file {path!r} gave {type(config).__name__}: expected "
            "get_config() to return a dal_jax.config.TrainConfig"
        )
    for field in cleared:
        *parents, name = field.split(".")
        holder = config
        for parent in parents:
            holder = getattr(holder, parent)
        setattr(holder, name, None)
    return config


def _leaf_fields(kind: type, prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if dataclasses.is_dataclass(field.type):
            leaves += _leaf_fields(typing.cast(type, field.type), name + ".")
        else:
            leaves.append((name, field.type))
    return leaves


def _is_optional(annotation: Any) -> bool:
    return isinstance(annotation, types.UnionType) and type(None) in annotation.__args__


def _flag_message(error: flags.Error) -> str:
    line = " ".join(str(error).split())
    return f"{line}: expected a value of the field's type; see --help"


def _fields_help() -> str:
    return "\n".join(
        f"    {name}: {getattr(kind, '__name__', kind)}"
        for name, kind in _leaf_fields(TrainConfig)
    )


def quiet() -> None:
    """Keeps libraries from logging what a user cannot act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from absl import logging

    logging.set_verbosity(logging.ERROR)


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache directory, for the next run."""
    import jax

    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "dal_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
