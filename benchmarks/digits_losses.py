"""Trains every loss on the digits with 40 % wrong labels and prints the table.

    python benchmarks/digits_losses.py [--losses=all] [--seeds=3] [--workdir=DIR]
        [--config.FIELD=VALUE ...]

Hyper-parameters are the defaults of the losses, the published ones for ten classes; the
two corrections are told the true noise rate, which no other loss knows. Runs and their
directories are those of ``study.py``: the same command goes on where it stopped. With
the small CNN on two cores a run takes about ten seconds.
"""

import copy
import sys
from pathlib import Path
from typing import Any

import machine
import study
from absl import flags

from dal_jax import cli, losses
from dal_jax.config import TrainConfig
from dal_jax.errors import unknown_name

_NOISE = study.Noise("symmetric", rate=0.4)


def with_assumptions(base: TrainConfig, loss: str) -> TrainConfig:
    """Returns the configuration with what a loss must be told about the noise."""
    config = copy.deepcopy(base)
    if "noise_rate" in losses.accepted(loss):
        config.loss.noise_rate = _NOISE.rate
    return config


def format_table(runs: list[dict[str, Any]]) -> str:
    """Returns the figures as a table with a row for each loss, the best first."""
    lines = study.format_details(runs).splitlines()
    accuracy = [name.strip() for name in lines[0].split("|")].index("last")
    rows = sorted(lines[2:], key=lambda row: row.split("|")[accuracy], reverse=True)
    return "\n".join([*lines[:2], *rows])


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("losses", "all", "Names of losses, or all.", flag_values=values)
    flags.DEFINE_string(
        "workdir", "runs/digits_losses", "Where the runs are.", flag_values=values
    )
    flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ...", flag_values=values)


def _main(config: TrainConfig, values: flags.FlagValues) -> None:
    cli.use_compilation_cache()
    names = losses.names() if values.losses == "all" else values.losses.split(",")
    for name in names:
        if name not in losses.names():
            raise unknown_name("loss", name, losses.names())
    runs = []
    for seed in range(values.seeds):
        for name in names:
            runs += study.run_study(
                with_assumptions(config, name),
                [name],
                [_NOISE],
                [seed],
                Path(values.workdir),
                say=lambda line: print(line, file=sys.stderr, flush=True),
            )
    print(
        "Test accuracy, mean ± sample standard deviation over seeds; `memorized` and "
        "`corrected` are shares of the wrong labels.",
        format_table(runs),
        machine.markdown(machine.describe()),
        sep="\n\n",
    )


if __name__ == "__main__":
    study.run_command(_main, _define_flags, __doc__)
