"""What the page says of what was trained, on what, and how to do it again."""

from collections.abc import Mapping
from typing import Any

from dal_jax import models
from dal_jax.command_line import quoted, train_command
from dal_jax.config import DatasetConfig
from dal_jax.report.run import ReportedRun
from dal_jax.reporting.report import Command, Table, Text


def blocks(run: ReportedRun) -> list[Any]:
    """Returns the setting, the command, the versions, and all fields."""
    setting = Table("The setting", ["What", "How"], _setting(run))
    again: list[Any] = [
        Text("It was trained by dal_jax.training.fit, with objects of a program.")
    ]
    if run.config is not None:
        words = [*train_command(run.config), f"--workdir={run.files.path}"]
        again = [Command("The command that trains it:", quoted(words))]
    fields = Table(
        "All fields of config.json",
        ["Field", "Value"],
        [[name, str(value)] for name, value in _flat(run.values)],
        folded=True,
    )
    return [setting, *again, *_environment(run), fields]


def _setting(run: ReportedRun) -> list[list[str]]:
    config, option = run.config, run.option
    rows = []
    if config is not None:
        rows.append(["Data", _named(vars(config.dataset), vars(DatasetConfig()))])
    if run.record is not None:
        rows.append(["Training examples", f"{len(run.record.noisy_labels):,}"])
    if run.predicted is not None:
        split = run.predicted.split.capitalize()
        rows.append([f"{split} examples", f"{len(run.predicted.label):,}"])
    if run.inputs:
        shape = " x ".join(map(str, run.inputs["input_shape"])) or "a number"
        rows.append(["An input", f"{shape}, {run.inputs['input_dtype']}"])
    rows.append(["Classes", f"{len(run.class_names):,}"])
    if config is not None:
        own = models.options(config.model.name)
        network = {k: v for k, v in vars(config.model).items() if k in (*own, "name")}
        rows += [
            ["Loss", _named(vars(config.loss))],
            ["Network", _named(network)],
            ["Optimizer", _named(_only(config.optimizer, _OF_THE_OPTIMIZER))],
            ["Augmentation", _named({"name": "", **vars(config.augmentation)})],
            ["Seed", str(config.seed)],
        ]
    else:
        rows.append(["Loss", str(run.values["objects"].get("loss_name", "unknown"))])
    epochs = f"{option.get('num_epochs')}, {run.last.get('step', 0):,} steps"
    rows += [
        ["Epochs", epochs],
        ["Batch", f"{option.get('batch_size')} examples"],
    ]
    return rows


_OF_THE_OPTIMIZER = (
    "name",
    "learning_rate",
    "schedule",
    "momentum",
    "weight_decay",
    "warmup_epochs",
    "clip_norm",
    "ema_decay",
)


def _only(config: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def _named(fields: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """Returns a name and what goes with it, without what is nothing or as usual."""
    given = [
        f"{name} {_value(value)}"
        for name, value in fields.items()
        if name != "name" and value not in (None, (), False, (usual or {}).get(name))
    ]
    return ", ".join([part for part in (fields["name"], *given) if part]) or "none"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "yes" if value is True else str(value)


def _environment(run: ReportedRun) -> list[Any]:
    if not run.sessions:
        device = run.summary.get("device")
        where = f"It was trained on {device}. " if device else ""
        return [Text(f"{where}An earlier version did not note its versions.")]
    rows = [
        [
            f"From step {session.get('from_step', 0):,}",
            ", ".join(
                [str(session.get("device", "")), str(session.get("system", ""))]
                + [f"{name} {session[name]}" for name in _VERSIONS if name in session]
            ),
        ]
        for session in run.sessions
    ]
    return [Table("Devices and versions", ["Part of the run", "With"], rows)]


_VERSIONS = ("dal_jax", "python", "jax", "jaxlib", "flax", "optax", "numpy")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    fields = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            fields += _flat(value, f"{prefix}{name}.")
        else:
            fields.append((f"{prefix}{name}", value))
    return fields
