"""Trains a classifier on wrong labels: the configuration says how.

    dal-jax train [--config=digits | FILE] [--workdir=runs/digits]
                  [--config.FIELD=VALUE ...] [--overwrite] [--tensorboard]

At its end the run writes report.html into its directory. The same command again goes on
where it stopped; a finished run says so.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from dal_jax import cli
from dal_jax.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    cli.run_command(_train, _define_flags, description=__doc__, argv=argv)


def _define_flags(values: flags.FlagValues) -> None:
    cli.define_workdir(
        values, "Where the run is written; default: runs/ and the config file's name."
    )
    for name, default, text in (
        ("overwrite", False, "Remove an earlier run in the workdir first."),
        ("compilation_cache", True, "Keep compiled programs for the next run."),
        ("profile", False, "Write a JAX profile of the second epoch."),
        ("tensorboard", False, "Write event files for TensorBoard."),
    ):
        flags.DEFINE_bool(name, default, text, flag_values=values)
    flags.DEFINE_enum(
        "distributed",
        "off",
        ["off", "auto"],
        "auto: many processes, found on Slurm, Cloud TPU and Kubernetes.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "host:port of process 0, where processes are not found by themselves.",
        flag_values=values,
    )
    for name, text in (
        ("num_processes", "How many processes, with --coordinator."),
        ("process_id", "Which of them this is, from 0."),
    ):
        flags.DEFINE_integer(name, None, text, flag_values=values)
    flags.DEFINE_integer(
        "connect_seconds",
        300,
        "How long to wait for the other processes.",
        lower_bound=1,
        flag_values=values,
    )


def _train(config: TrainConfig, values: flags.FlagValues) -> None:
    from dal_jax import training
    from dal_jax.training import processes, stopping, summary
    from dal_jax.training.quiet import quiet_orbax

    if values.compilation_cache:
        cli.use_compilation_cache()
    processes.initialize(
        automatic=values.distributed == "auto",
        coordinator=values.coordinator,
        num_processes=values.num_processes,
        process_id=values.process_id,
        connect_seconds=values.connect_seconds,
    )
    speaks = processes.is_main_process()
    workdir = values.workdir or str(Path("runs") / cli.config_name(values))
    try:
        with quiet_orbax(), stopping.stop_signals(may_exit=True) as stop:
            result = training.train_and_evaluate(
                config,
                workdir,
                overwrite=values.overwrite,
                stop=stop,
                say=_say if speaks else lambda line: None,
                progress=speaks,
                profile=values.profile,
                tensorboard=values.tensorboard,
            )
    except training.Interrupted as error:
        cli.end(error, 128 + error.signal_number)
    except training.NonFiniteError as error:
        cli.end(error, 1)
    except training.StorageError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        # The writers that were cut short would complain at length as Python exits.
        os._exit(1)
    if speaks and result:
        print(summary.format_summary(result, workdir))
        report = Path(workdir) / "report.html"
        if report.exists():
            print(f"see {report}")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
