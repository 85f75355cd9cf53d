"""What the commands share: flags, one-line errors, and a quiet start-up."""

import atexit
import gc
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from dal_jax import overrides
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError, unknown_name
from dal_jax.fields import choices, loss_fields, type_name, typed_fields

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

    The exit status is 0 if the command returns. It is 2 after an :class:`InputError`,
    whose line is printed on standard error, or where a package is missing, and 1 where
    memory ran out.

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
    # As it ends, Python would look through all of them for garbage: a quarter second.
    atexit.register(gc.freeze)
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
    except OSError as error:
        if error.filename is None:
            raise  # no path that a user gave
        end(InputError(f"cannot use {error.filename}: {error.strerror}; check it"), 2)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        smaller = "smaller batches, images or networks, model.remat=True"
        end(RuntimeError(f"out of memory; try {smaller}, precision=bfloat16"), 1)
    except KeyboardInterrupt:
        # Nothing to save yet, or the second signal.
        end(RuntimeError("interrupted"), 130)


def define_workdir(values: flags.FlagValues, text: str) -> None:
    """Defines ``--workdir`` of a command that has a default for it."""
    flags.DEFINE_string("workdir", None, text, flag_values=values)
    flags.register_validator(
        "workdir",
        lambda path: path != "",
        "it is empty, as from a variable that is not set",
        flag_values=values,
    )


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


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on the host or, as XLA words it, on a device."""
    said = str(error).lower()
    xla = "resource_exhausted" in said or "out of memory" in said
    return isinstance(error, MemoryError) or xla


def _parse(argv: list[str], values: flags.FlagValues) -> TrainConfig:
    """Returns the configuration with its overrides; fills in the flags' values."""
    kept, later = overrides.split(argv)
    given, kept = _split_config(kept)
    path = _config_path(given)
    kept.insert(1, f"--config={path}")
    config_flags.DEFINE_config_file(
        "config", path, _CONFIG_HELP, flag_values=values, sys_argv=kept
    )
    try:
        _parse_flags(kept, values)
        config = values["config"].value
        # What could not be opened is said where the configuration is first used.
        getattr(config, "seed", None)
    except InputError:
        raise
    except Exception as error:
        # The file is the user's own code and may raise anything.
        raise InputError(
            f"config file {path!r} does not load ({type(error).__name__}: {error}): "
            "expected Python with get_config(); correct it or give another --config"
        ) from error
    if not isinstance(config, TrainConfig):
        raise InputError(
            f"config file {path!r} gave no configuration: expected get_config() to "
            "return a dal_jax.config.TrainConfig; fix it or give another --config"
        )
    overrides.apply(later, config)
    return config


def _parse_flags(argv: list[str], values: flags.FlagValues) -> None:
    try:
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        raise _wrong_value(error, values) from None
    except flags.Error as error:
        # absl asks "Did you mean: workdir ?".
        said = str(error).rstrip(" ?.")
        raise InputError(
            f"{said}; expected a flag and a value as --help lists them"
        ) from None
    except ValueError as error:
        # A configuration file may raise one, too.
        if not str(error).endswith("does not take an argument"):
            raise
        raise InputError(f"{error}: expected it alone; leave out the value") from None
    if rest:
        expected = "only --flags"
        if "config" in values:
            expected += " and overrides as --config.FIELD=VALUE"
        raise InputError(
            f"unexpected argument {rest[0]!r}: expected {expected}; see --help"
        )


def _wrong_value(
    error: flags.IllegalFlagValueError, values: flags.FlagValues
) -> InputError:
    """Says what a flag takes, where absl says what Python's int() does not."""
    reason = error.__context__
    if reason is None:  # a validator's own words
        return InputError(f"{error}; --help lists what each flag takes")
    given = str(error).removeprefix("flag ").removesuffix(f": {reason}")
    parser = values[given.partition("=")[0].lstrip("-")].parser
    if isinstance(parser, flags.EnumParser):
        expected = f"one of {', '.join(parser.enum_values)}"
    elif isinstance(parser, flags.BooleanParser):
        expected = "true or false"
    else:
        expected = parser.syntactic_help
    return InputError(f"{given}: expected {expected}; give another value")


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
    kinds = {name: type_name(kind) for name, kind in typed_fields().items()}
    names = {name: "one of " + ", ".join(known) for name, known in choices().items()}
    for name, kind in (kinds | loss_fields()).items():
        print(f"  {name}: {names.get(name, kind)}")


def quiet() -> None:
    """Stops libraries from logging what a user cannot act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    import logging

    # Errors that these log are also raised, and are printed as one line. The last two
    # log tracebacks for parts of theirs that nobody asked for.
    for library in ("absl", "asyncio", "jax2onnx", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def use_compilation_cache() -> None:
    """Caches compiled programs in the user's cache directory for the next run."""
    import jax

    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "dal_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
