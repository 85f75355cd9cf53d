"""The command line that reproduces a configuration."""

import dataclasses
import runpy
import shlex
from typing import Any

from dal_jax import cli
from dal_jax.config import LossConfig, TrainConfig


def train_command(config: TrainConfig) -> list[str]:
    """Returns the words of the ``dal-jax train`` command for a configuration.

    They name the recipe that differs in the fewest fields, and set those fields.

    Example:
      >>> train_command(TrainConfig(num_epochs=3))[:2]
      ['dal-jax', 'train']
    """
    wanted = _fields(config)
    choices = []
    for name, file in cli.recipe_files().items():
        recipe = _fields(runpy.run_path(str(file))["get_config"]())
        changed = {
            field: wanted.get(field)
            for field in sorted(wanted.keys() | recipe.keys())
            if wanted.get(field) != recipe.get(field)
        }
        choices.append((len(changed), name, changed))
    _, name, changed = min(choices, key=lambda choice: choice[:2])
    flags = [f"--config.{field}={_text(value)}" for field, value in changed.items()]
    return ["dal-jax", "train", f"--config={name}", *flags]


def quoted(words: list[str]) -> str:
    """Quotes words for a shell and breaks a long command into several lines.

    Example:
      >>> print(quoted(["dal-jax", "train", "--workdir=my runs"]))
      dal-jax train '--workdir=my runs'
    """
    lines = [""]
    for word in map(shlex.quote, words):
        if lines[-1] and len(lines[-1]) + len(word) > 66:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)


def _fields(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, LossConfig):
        return {prefix + name: value for name, value in vars(config).items()}
    fields = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) or isinstance(value, LossConfig):
            fields |= _fields(value, f"{prefix}{field.name}.")
        else:
            fields[prefix + field.name] = value
    return fields


def _text(value: Any) -> str:
    if isinstance(value, tuple) and value:
        return ",".join(map(str, value))
    return str(value)
