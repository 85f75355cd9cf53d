"""What the commands share: flags, one-line errors, and a quiet start-up."""

import ast
import dataclasses
import functools
import gc
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from dal_jax.config import LossConfig, TrainConfig
from dal_jax.errors import InputError, unknown_name

_OVERRIDE = re.compile(r"--?config\.(?P<field>[\w.]+)(=(?P<value>.*))?", re.DOTALL)
_BOOLEANS = ("true", "false")
_DEFAULT_CONFIG = "digits"
_CONFIG_HELP = (
    "A recipe's name, or a Python file with get_config() -> dal_jax.config.TrainConfig."
)


def run_command(
    command: Callable[..., None],
    define_flags: Callable[[flags.FlagValues], None],
    *,
    description: str | None,
    argv: Sequence[str] | None = None,
    configured: bool = True,
) -> None:
    """Parses the command line, runs a command and ends the process.

    The exit status is 0 if the command returns, and 2 after an :class:`InputError`,
    whose line is printed on standard error, or where a package is missing.

    Args:
      command: called with the configuration and the flags' values.
      define_flags: adds the command's own flags.
      description: printed by ``--help``.
      argv: the command line; by default the process's own.
      configured: whether there is a ``--config``; otherwise the command gets only the
        flags' values.
    """
    # Tracing makes many objects and little garbage, and looking for it takes time.
    gc.set_threshold(50_000)
    argv = list(sys.argv if argv is None else argv)
    values = flags.FlagValues()
    define_flags(values)
    if {"--help", "-h", "--helpfull"} & set(argv):
        _print_help(description, values, configured)
        return
    try:
        if configured:
            command(_parse(argv, values), values)
        else:
            _parse_flags(argv, values)
            command(values)
    except InputError as error:
        end(error, 2)
    except ModuleNotFoundError as error:
        if (error.name or "dal_jax").startswith("dal_jax"):
            raise  # a mistake in this package
        missing = f"{error.name} is not installed: expected what dal_jax depends on"
        end(InputError(f"{missing}; install it"), 2)
    except KeyboardInterrupt:
        # Nothing to save yet, or the second signal.
        end(RuntimeError("interrupted"), 130)


def config_file(values: flags.FlagValues) -> Path:
    """Returns the configuration file."""
    return Path(config_flags.get_config_filename(values["config"]))


def config_name(values: flags.FlagValues) -> str:
    """Returns the configuration file's name without its ending."""
    return config_file(values).stem


def end(error: Exception, status: int) -> typing.NoReturn:
    """Ends the process with an error's one line on standard error."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(status)


def _parse(argv: list[str], values: flags.FlagValues) -> TrainConfig:
    """Returns the configuration with its overrides; fills in the flags' values."""
    kept, later = _split_overrides(argv)
    given, kept = _split_config(kept)
    path = _config_path(given)
    kept.insert(1, f"--config={path}")
    config_flags.DEFINE_config_file(
        "config", path, _CONFIG_HELP, flag_values=values, sys_argv=kept
    )
    try:
        _parse_flags(kept, values)
    except InputError:
        raise
    except Exception as error:
        # The file is the user's own code and may raise anything.
        raise InputError(
            f"config file {path!r} does not load ({type(error).__name__}: {error}): "
            "expected Python with get_config(); correct it or give another --config"
        ) from error
    config = values["config"].value
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"config file {path!r} gave no configuration: expected get_config() to "
            "return a dal_jax.config.TrainConfig; fix it or give another --config"
        )
    for field, value in later.items():
        *parents, name = field.split(".")
        setattr(functools.reduce(getattr, parents, config), name, value)
    _check_tuples(config)
    return config


def _parse_flags(argv: list[str], values: flags.FlagValues) -> None:
    try:
        rest = values(argv)[1:]
    except flags.Error as error:
        # absl asks "Did you mean: workdir ?".
        said = str(error).rstrip(" ?.")
        raise InputError(
            f"{said}; expected a flag and a value as --help lists them"
        ) from None
    if rest:
        raise InputError(
            f"unexpected argument {rest[0]!r}: expected only --flags; "
            "see --help and write overrides as --config.FIELD=VALUE"
        )


def _check_tuples(config: TrainConfig) -> None:
    # Flags of all other types refuse values of the wrong type themselves.
    for field, kind in _leaf_fields(TrainConfig):
        if typing.get_origin(kind) is tuple:
            value = functools.reduce(getattr, field.split("."), config)
            item = typing.get_args(kind)[0]
            good = (int,) if item is int else (int, float)
            if not (isinstance(value, tuple) and all(type(x) in good for x in value)):
                raise InputError(
                    f"config field {field!r} is {value!r}: expected a tuple of "
                    f"{item.__name__}, written as --config.{field}=1,2"
                )


def _split_overrides(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Returns the arguments to parse, and the fields to set afterwards.

    The fields set afterwards are the loss's, whose types only the losses know, and
    those set to ``None``.
    """
    known = dict(_leaf_fields(TrainConfig))
    kept, later = [], {}
    arguments = iter(argv)
    for argument in arguments:
        match = _OVERRIDE.fullmatch(argument)
        field, text = match.group("field", "value") if match else ("", None)
        if field.startswith("loss.") and field in _loss_fields():
            text = next(arguments, "") if text is None else text
            later[field] = _loss_value(field, text)
        elif match and field not in known:
            raise unknown_name("config field", field, [*known, *_loss_fields()])
        elif text == "None":
            if type(None) not in typing.get_args(known[field]):
                raise _cannot_be_none(field, known[field])
            later[field] = None
        else:
            kept.append(argument)
    return kept, later


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


@functools.cache
def _loss_fields() -> dict[str, str]:
    """The fields of a loss's configuration, and the losses that have them."""
    from dal_jax import losses  # imports jax

    users: dict[str, list[str]] = {}
    for name in losses.names():
        for hyperparameter in losses.accepted(name):
            users.setdefault(f"loss.{hyperparameter}", []).append(name)
    fields = {"loss.name": "str", "loss.preset": "str"}
    return fields | {field: ", ".join(users[field]) for field in sorted(users)}


def _split_config(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the value of --config, and the other arguments."""
    named, rest = _DEFAULT_CONFIG, []
    arguments = iter(argv)
    for argument in arguments:
        if match := re.fullmatch(r"--?config(=(?P<path>.*))?", argument):
            given = match["path"]
            named = next(arguments, "") if given is None else given
        else:
            rest.append(argument)
    return named, rest


def _config_path(path: str) -> str:
    """Returns the file that a --config names, which may be a recipe's name."""
    if Path(path).is_file():
        return path
    recipes = recipe_files()
    if path in recipes:
        return str(recipes[path])
    if Path(path).suffix or len(Path(path).parts) != 1:
        raise InputError(
            f"config file {path!r} not found: expected a Python file with "
            f"get_config(), or one of {', '.join(sorted(recipes))}; give another "
            "--config"
        )
    raise unknown_name("config", path, recipes)


def recipe_files() -> dict[str, Path]:
    """Returns the recipes by name: in the package, or beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    directory = inside if inside.is_dir() else package.parent / "configs"
    return {file.stem: file for file in sorted(directory.glob("*.py"))}


def _leaf_fields(kind: type, prefix: str = "") -> list[tuple[str, Any]]:
    leaves = []
    for field in dataclasses.fields(kind):
        name = prefix + field.name
        if field.type is LossConfig:
            continue  # see _loss_fields
        if dataclasses.is_dataclass(field.type):
            leaves += _leaf_fields(typing.cast(type, field.type), name + ".")
        else:
            leaves.append((name, field.type))
    return leaves


def fields() -> dict[str, Any]:
    """Returns every field of a configuration with its type, None for a loss's own.

    Example:
      >>> fields()["num_epochs"], fields()["loss.q_end"]
      (<class 'int'>, None)
    """
    return dict(_leaf_fields(TrainConfig)) | dict.fromkeys(_loss_fields())


def type_name(annotation: Any) -> str:
    """Returns how help and errors name a field's type."""
    return getattr(annotation, "__name__", str(annotation))


def _print_help(
    description: str | None, values: flags.FlagValues, configured: bool
) -> None:
    print((description or "").strip(), "\n\nFlags:")
    if not configured:
        print(values.get_help("  ", include_special_flags=False).strip("\n"))
        return
    print(f"  --config: {_CONFIG_HELP}\n    (default: {_DEFAULT_CONFIG})")
    print(values.get_help("  ", include_special_flags=False).strip("\n"))
    print("\nFields, each set by --config.FIELD=VALUE:")
    for name, kind in _leaf_fields(TrainConfig):
        print(f"  {name}: {type_name(kind)}")
    for name, users in _loss_fields().items():
        print(f"  {name}: {users}")


def quiet() -> None:
    """Stops libraries from logging what a user cannot act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    import logging

    # Errors that these log are also raised, and are printed as one line.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def use_compilation_cache() -> None:
    """Caches compiled programs in the user's cache directory for the next run."""
    import jax

    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "dal_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
