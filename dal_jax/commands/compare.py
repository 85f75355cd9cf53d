"""Compares losses over noises, seeds and settings, and says what can be told apart.

    dal-jax compare --config=digits --losses=ce,gce,dal --seeds=5 --workdir=DIR
                    --noises=symmetric:0.2,symmetric:0.4,file:PATH
                    [--sweep=loss.q_end:1.2,1.5,2 ...] [--select=validation]
                    [--processes=N | --engine=dask --scheduler=ADDRESS]
                    [--config.FIELD=VALUE ...]

A noise is KIND:RATE, file:PATH for a label file, or none; --losses=all takes every
loss. A loss that assumes a noise rate gets the noise's; a label file has none, so set
--config.loss.noise_rate for it. A swept field takes its values in turn, several are
crossed, and a loss that lacks the field is trained once.

Each run has its own directory below the workdir. The same command goes on where it
stopped, and with more losses, noises, seeds or values it runs only what is new.
results.csv has a line a run, results.md and results.tex the tables; the pictures are
beside them.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from dal_jax import cli
from dal_jax.config import TrainConfig
from dal_jax.errors import InputError

if TYPE_CHECKING:
    from dal_jax.comparing.job import Job, Outcome
    from dal_jax.comparing.plan import Run
    from dal_jax.comparing.progress import Progress
    from dal_jax.comparing.study import Study


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's command line."""
    cli.quiet()
    argv = list(sys.argv if argv is None else argv)
    command = functools.partial(_compare, ["dal-jax", "compare", *argv[1:]])
    cli.run_command(command, _define_flags, description=__doc__, argv=argv)


def _define_flags(values: flags.FlagValues) -> None:
    cli.define_workdir(
        values, "Where the comparison is written; default: runs/compare."
    )
    for name, default, text in (
        ("losses", "ce,gce,dal", "Names of losses, separated by commas, or all."),
        ("noises", "symmetric:0.4", "KIND:RATE, file:PATH or none, likewise."),
        ("scheduler", None, "Engine dask: the scheduler's address."),
    ):
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "FIELD:VALUE,VALUE, or the name of a sweep in the config file.",
        flag_values=values,
    )
    for name, default, text in (
        ("seeds", 3, "How many seeds: 0, 1, ..."),
        ("processes", None, "Runs at a time; default: one a core, on a GPU one."),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=1, flag_values=values)
    for name, default, kinds, text in (
        ("select", None, ["validation"], "Choose a setting by noisy validation."),
        ("engine", "local", ["local", "dask"], "Where the runs are trained."),
        ("test", "t", ["t", "wilcoxon"], "The paired test over the seeds."),
    ):
        flags.DEFINE_enum(name, default, kinds, text, flag_values=values)
    flags.DEFINE_bool(
        "compilation_cache",
        True,
        "Share compiled programs between processes, and keep them.",
        flag_values=values,
    )


def _compare(words: list[str], config: TrainConfig, values: flags.FlagValues) -> None:
    from dal_jax import losses, training
    from dal_jax.comparing import plan, sweeps
    from dal_jax.comparing.results import write_results
    from dal_jax.comparing.study import Study, table

    _check_flags(config, values)
    sweeps.refuse_crossed(words)
    named = sweeps.named_sweeps(cli.config_file(values))
    swept = sweeps.parse_sweeps(values.sweep, named)
    names = losses.names() if values.losses == "all" else values.losses.split(",")
    noises = [plan.parse_noise(text) for text in values.noises.split(",")]
    runs = plan.make_plan(config, names, noises, range(values.seeds), swept)
    study = Study(values.workdir or Path("runs") / "compare")
    study.check(config)
    left = [run for run in runs if not study.finished(run.name)]
    if values.compilation_cache:
        cli.use_compilation_cache()
    if left and values.engine == "dask":
        from dal_jax.comparing.engine_dask import check_scheduler

        check_scheduler(values.scheduler)
    plan.check_data(left)
    study.begin(config)
    fields = [sweep.field for sweep in swept]
    try:
        if left:
            _train(study, runs, left, values)
    except training.Interrupted as error:
        study.write("results.csv", table(study.rows(runs), fields))
        cli.end(error, 128 + error.signal_number)
    except training.StorageError as error:
        cli.end(error, 1)
    select, test = values.select == "validation", values.test
    text = write_results(study, runs, fields, select=select, test=test, command=words)
    print(text)
    print(f"wrote {study.path / 'results.csv'}, results.md, results.tex and pictures")


def _check_flags(config: TrainConfig, values: flags.FlagValues) -> None:
    if values.engine == "dask" and not values.scheduler:
        raise InputError(
            "engine dask without --scheduler: expected the address of a Dask "
            "scheduler, such as tcp://host:8786; give one"
        )
    if values.engine == "local" and values.scheduler:
        raise InputError(
            "--scheduler without --engine=dask: expected both or neither; add it"
        )
    if values.select and not values.sweep:
        raise InputError(
            "--select without --sweep: expected settings to choose from; sweep a field"
        )
    if values.select and not config.dataset.validation_fraction > 0:
        raise InputError(
            "--select=validation without validation examples: expected a share of the "
            "training set to be held out; set --config.dataset.validation_fraction=0.1"
        )


def _train(
    study: "Study", runs: "list[Run]", left: "list[Run]", values: flags.FlagValues
) -> None:
    from dal_jax.comparing.engine_dask import run_dask
    from dal_jax.comparing.engine_local import default_processes, run_local
    from dal_jax.comparing.job import Job
    from dal_jax.comparing.progress import Progress

    jobs = [Job.of(study, run, values.compilation_cache) for run in left]
    names = {run.name for run in left}
    known = study.rows(run for run in runs if run.name not in names)
    progress = Progress(runs, known, sys.stderr)
    report = _reporter(study, left, progress)
    progress.show()
    if values.engine == "dask":
        run_dask(jobs, values.scheduler, report, _say)
    else:
        processes = values.processes or default_processes()
        run_local(jobs, processes, report, progress.show)


def _reporter(
    study: "Study", runs: "Sequence[Run]", progress: "Progress"
) -> "Callable[[Job, Outcome], None]":
    by_name = {run.name: run for run in runs}

    def report(job: "Job", outcome: "Outcome") -> None:
        row = study.row(by_name[job.name])
        if row is not None:
            progress.add(row)

    return report


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
