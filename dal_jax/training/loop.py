"""The way through a run: check, prepare, train, summarize."""

import dataclasses
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dal_jax.config import TrainConfig
from dal_jax.training import experiment as experiments
from dal_jax.training import summary as summaries
from dal_jax.training.checkpoint import Checkpoints
from dal_jax.training.experiment import Experiment
from dal_jax.training.prepare import Prepared, prepare
from dal_jax.training.processes import agree, is_main_process, refuse_together
from dal_jax.training.run import Run
from dal_jax.training.stopping import Stop
from dal_jax.training.workdir import Workdir

_STOPPED_EARLY = "stopped while preparing; the same command goes on from here"


def train_and_evaluate(
    config: TrainConfig,
    workdir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    profile: bool = False,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Trains as configured, or goes on where the same run stopped.

    Args:
      config: what to train, on what, how.
      workdir: where ``config.json``, ``noise.npz``, ``metrics.jsonl``,
        ``checkpoints/`` and at the end ``summary.json`` are written.
      overwrite: remove what an earlier run left there, and start anew.
      say: told in single lines what a person would want to know.
      progress: show a progress bar on standard error.
      profile: write a JAX profile of the second epoch to ``workdir/profile``.
      stop: what asks the run to stop; by default nothing does, and signals are left
        alone.

    Returns:
      The summary, as in ``summary.json``; ``{}`` where ``num_epochs`` is 0.

    Raises:
      InputError: a wrong configuration, before anything is written.
      NonFiniteError: the loss or its gradient was not finite.
      StorageError: the run could not be written, as on a full disk.
      Interrupted: ``stop`` asked for it; the run is saved and can go on.
    """
    files = Workdir(workdir)
    identity, defaults = dataclasses.asdict(config), dataclasses.asdict(TrainConfig())
    stop = stop or Stop()

    def check() -> bool:
        """Returns on the main process whether the run has finished before."""
        experiments.check(config)
        if not is_main_process():
            return False
        files.check(identity, defaults, overwrite=overwrite)
        return not overwrite and files.read_summary() is not None

    def begin(held: ExitStack) -> tuple[Prepared, Experiment]:
        prepared = prepare(config)
        experiment = experiments.build(config, prepared)
        if is_main_process():
            held.enter_context(files.locked())
            files.begin(identity, defaults, prepared.record, overwrite=overwrite)
        return prepared, experiment

    if agree(refuse_together(check)):
        say(f"already finished; nothing changed in {files.path}")
        return files.read_summary() or {}
    with ExitStack() as held:
        with stop.at_once(_STOPPED_EARLY):
            prepared, experiment = refuse_together(lambda: begin(held))
        if prepared.skipped:
            named = ", ".join(prepared.skipped[:3])
            say(f"left out {len(prepared.skipped)} images that do not decode: {named}")
        if config.num_epochs == 0:
            say(f"prepared, not trained: see {files.noise}")
            return {}
        return _train(config, files, prepared, experiment, stop, say, progress, profile)


def _train(
    config: TrainConfig,
    files: Workdir,
    prepared: Prepared,
    experiment: Experiment,
    stop: Stop,
    say: Callable[[str], None],
    progress: bool,
    profile: bool,
) -> dict[str, Any]:
    best = "validation_accuracy" if "validation" in experiment.evaluations else None
    checkpoints = Checkpoints(files, config.keep_checkpoints, best)
    try:
        with stop.may_leave(lambda: _STOPPED_EARLY):
            run = Run(config, files, experiment, checkpoints, stop, say)
        run.train(progress, profile)
    finally:
        checkpoints.close()
    summary = summaries.summarize(config, prepared.record, run.entries)
    if is_main_process():
        files.write_summary(summary)
    return summary
