"""Trains every combination of losses, noises and seeds, and prints the tables.

    python benchmarks/study.py --config=configs/digits.py --losses=ce,gce,mae,dal
        --noises=symmetric:0.2,symmetric:0.4 --seeds=3 --workdir=runs/study
        [--config.FIELD=VALUE ...]

A noise is ``KIND:RATE``, or ``file:PATH`` for a label file; ``--losses=all`` takes
every loss. A loss that assumes a noise rate gets the noise's rate; a label file has
none, so set ``--config.loss.noise_rate`` for it. Losses that the preset in
``--config.loss.preset`` does not hold keep their defaults. Each run has its own
directory below the workdir, and finished runs are not repeated. So the same command
continues a stopped study, and with more losses, noises or seeds it runs only what is
new. ``study.json`` holds every run's summary.
"""

import copy
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np
from absl import flags

from dal_jax import cli, losses
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError, unknown_name
from dal_jax.losses import presets

_COLUMNS = {
    "last": "test_accuracy_last",
    "mean of last ten": "test_accuracy_mean_last_10",
    "best": "test_accuracy_best",
    "memorized": "memorized",
    "corrected": "corrected",
}


@dataclasses.dataclass(frozen=True)
class Noise:
    """One noise of a study: a kind with its rate or its file."""

    kind: str
    rate: float | None = None
    path: str | None = None

    @property
    def label(self) -> str:
        """A name that is unique in a study and fit for a directory."""
        if self.path is None:
            return f"{self.kind}-{self.rate:g}"
        path = Path(self.path)
        return f"{path.parent.name}-{path.stem}"


def parse_noise(text: str) -> Noise:
    """Returns the noise that ``KIND:RATE`` or ``KIND:PATH`` stands for."""
    kind, _, option = text.partition(":")
    if kind in ("file", "transition_matrix"):
        return Noise(kind, path=option)
    try:
        return Noise(kind, rate=float(option or 0))
    except ValueError:
        raise InputError(
            f"noise {text!r}: expected KIND:RATE such as symmetric:0.4, or file:PATH"
        ) from None


def configure(base: TrainConfig, loss: str, noise: Noise, seed: int) -> TrainConfig:
    """Returns the configuration of one run of a study."""
    config = copy.deepcopy(base)
    config.loss.name, config.noise.kind, config.seed = loss, noise.kind, seed
    config.noise.path = noise.path
    if noise.rate is not None:
        config.noise.rate = noise.rate
    if "noise_rate" not in losses.accepted(loss):
        config.loss.noise_rate = None
    elif config.loss.noise_rate is None:
        config.loss.noise_rate = noise.rate
    preset = config.loss.preset
    if preset is not None and not presets.holds(preset, loss):
        config.loss.preset = None
    return config


def run_study(
    base: TrainConfig,
    loss_names: Sequence[str],
    noises: Sequence[Noise],
    seeds: Sequence[int],
    workdir: Path,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Trains every run that has not finished; returns all summaries, with labels.

    A run whose loss stops being finite has no accuracy and an ``error`` instead.
    """
    from dal_jax import recipe
    from dal_jax.training import NonFiniteError, train_and_evaluate

    runs = []
    # Seeds are the outer loop: a stopped study has complete results for its first
    # seeds.
    crossed = list(itertools.product(seeds, noises, loss_names))
    configs = [configure(base, loss, noise, seed) for seed, noise, loss in crossed]
    for config in configs:
        # Errors in any run's configuration are reported before the first run begins.
        recipe.check(config)
    for number, (config, run) in enumerate(zip(configs, crossed, strict=True), start=1):
        seed, noise, loss = run
        directory = workdir / noise.label / loss / f"seed{seed}"
        try:
            summary = train_and_evaluate(config, directory)
        except NonFiniteError as error:
            summary = {"error": str(error)}
        runs.append({"noise": noise.label, "seed": seed, **summary, "loss": loss})
        last = summary.get("test_accuracy_last")
        outcome = summary.get("error") or (
            f"{'no test set' if last is None else f'{last:.3f}'} in "
            f"{summary['elapsed_seconds']:.0f} s"
        )
        say(f"{number}/{len(crossed)} {noise.label} {loss} seed {seed}: {outcome}")
    return runs


def format_matrix(runs: list[dict[str, Any]]) -> str:
    """Returns last-epoch test accuracy as a table of noises by losses."""
    noises, names = (list(dict.fromkeys(r[key] for r in runs)) for key in _KEYS)
    lines = [f"| noise | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for noise in noises:
        cells = [_cell(_select(runs, noise, x), _COLUMNS["last"]) for x in names]
        lines.append(f"| {noise} | {' | '.join(cells)} |")
    return "\n".join(lines)


def format_details(runs: list[dict[str, Any]]) -> str:
    """Returns all figures as a table with a row for each noise and loss."""
    names = ["noise", "labels wrong", "loss", *_COLUMNS, "seeds", "seconds a run"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for noise, loss in dict.fromkeys((r["noise"], r["loss"]) for r in runs):
        chosen = _select(runs, noise, loss)
        cells = [_cell(chosen, column) for column in _COLUMNS.values()]
        seconds = [r["elapsed_seconds"] for r in chosen if "elapsed_seconds" in r]
        spent = f"{np.median(seconds):.0f}" if seconds else "–"
        rate = _cell(chosen, "realised_noise_rate", spread=False)
        row = [noise, rate, loss, *cells, str(len(chosen)), spent]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


_KEYS = ("noise", "loss")


def _select(runs: list[dict[str, Any]], noise: str, loss: str) -> list[dict[str, Any]]:
    return [r for r in runs if (r["noise"], r["loss"]) == (noise, loss)]


def _cell(runs: list[dict[str, Any]], column: str, spread: bool = True) -> str:
    failed = sum("error" in r for r in runs)
    values = [r[column] for r in runs if r.get(column) is not None]
    text = f"{np.mean(values):.3f}" if values else "–"
    if spread and len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.3f}"
    return f"{text} ({failed} not finite)" if failed else text


def _define_flags(values: flags.FlagValues) -> None:
    for name, default, text in (
        ("losses", "ce,gce,mae,dal", "Names of losses, or all."),
        ("noises", "symmetric:0.4", "KIND:RATE or file:PATH, separated by commas."),
        ("workdir", "runs/study", "Where the runs are written."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ...", flag_values=values)


def _main(config: TrainConfig, values: flags.FlagValues) -> None:
    cli.use_compilation_cache()
    names = losses.names() if values.losses == "all" else values.losses.split(",")
    for name in names:
        if name not in losses.names():
            raise unknown_name("loss", name, losses.names())
    workdir = Path(values.workdir)
    runs = run_study(
        config,
        names,
        [parse_noise(text) for text in values.noises.split(",")],
        range(values.seeds),
        workdir,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    description = machine.describe()
    result = {"machine": description, "runs": runs}
    (workdir / "study.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        "Test accuracy at the last epoch, mean ± sample standard deviation over seeds.",
        format_matrix(runs),
        "All figures; `memorized` and `corrected` are shares of the wrong labels.",
        format_details(runs),
        machine.markdown(description),
        sep="\n\n",
    )


def run_command(command: Any, define_flags: Any, description: str | None) -> None:
    """Runs a study's command; Ctrl-C ends it with the line that says how to go on."""
    from dal_jax.training import Interrupted

    cli.quiet()
    try:
        cli.run_command(command, define_flags, description=description)
    except Interrupted as error:
        cli.end(error, 128 + error.signal_number)


if __name__ == "__main__":
    run_command(_main, _define_flags, __doc__)
