"""Learning with label noise from the command line.

dal-jax NAME [--help] [--FLAG=VALUE ...]
dal-jax --version
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

import dal_jax


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names."""
    argv = list(sys.argv if argv is None else argv)
    if argv[1:] == ["--version"]:
        print(versions())
        return
    from dal_jax import cli, commands
    from dal_jax.errors import unknown_name

    if len(argv) < 2 or argv[1] in ("--help", "-h"):
        print((__doc__ or "").strip() + "\n\nCommands:")
        for name in commands.NAMES:
            print(f"  {name:<8} {(_module(name).__doc__ or '').splitlines()[0]}")
        raise SystemExit(0 if len(argv) > 1 else 2)
    name = argv[1]
    if name not in commands.NAMES:
        cli.end(unknown_name("command", name, commands.NAMES), 2)
    _module(name).main([f"dal-jax {name}", *argv[2:]])


def versions() -> str:
    """Returns the line that ``--version`` prints; imports none of the packages.

    Example:
      >>> versions().startswith(f"dal-jax {dal_jax.__version__}, jax ")
      True
    """
    others = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax")]
    return ", ".join([f"dal-jax {dal_jax.__version__}", *others])


def _module(name: str):
    return importlib.import_module(f"dal_jax.commands.{name}")


if __name__ == "__main__":
    main()
