"""The training of one run of a comparison, in whatever process it is."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from dal_jax import cli
from dal_jax.comparing.plan import Run, dataset_of
from dal_jax.comparing.study import Study
from dal_jax.config import config_of, plain
from dal_jax.errors import InputError
from dal_jax.training.stopping import Stop, stop_signals

# How a job ends. Busy: another process trains the run. Stopped: a signal came, and the
# run is saved.
Outcome = Literal["finished", "failed", "busy", "stopped"]
# Seconds to wait for another process before one looks for other work.
_PATIENCE = 2.0
# Processes that may die of a run before it counts as failed.
ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to train, as a plain value that goes to another process.

    Attributes:
      study: the comparison's directory.
      name: the run's.
      values: the run's configuration, as JSON holds it.
      compilation_cache: keep compiled programs for other processes.
    """

    study: str
    name: str
    values: Mapping[str, Any]
    compilation_cache: bool = True

    @classmethod
    def of(cls, study: Study, run: Run, compilation_cache: bool = True) -> "Job":
        """Returns the job of a run."""
        return cls(str(study.path), run.name, plain(run.config), compilation_cache)

    def give_up(self, what: str) -> Outcome:
        """Notes that the processes that trained the run died."""
        reason = f"{ATTEMPTS} processes that trained it died ({what})"
        Study(self.study).note_failure(self.name, reason, again=True)
        return "failed"


def train(job: Job) -> Outcome:
    """Trains a run, or goes on where it stopped, unless another process does.

    Whatever goes wrong with it is noted and ends this run alone. An exception is
    raised where no run can be trained: the directory cannot be seen or written.
    """
    with stop_signals() as stop:
        return train_unless(stop, job)


def train_unless(stop: Stop, job: Job) -> Outcome:
    """Like :func:`train`, until ``stop`` asks to stop."""
    from dal_jax import training
    from dal_jax.training.quiet import quiet_orbax

    study, config = Study(job.study), config_of(job.values)
    if config is None or not study.mark.exists():
        raise InputError(
            f"no {study.mark} here: expected every process to see the comparison's "
            "directory; use a file system that all share"
        )
    if job.compilation_cache:
        cli.use_compilation_cache()
    with study.claimed(job.name, _PATIENCE) as mine:
        if not mine:
            return "busy"
        if study.finished(job.name):
            return "finished"
        try:
            with quiet_orbax(), stop.at_once("stopped while preparing"):
                dataset = dataset_of(config.dataset)
            with quiet_orbax():
                workdir = study.workdir(job.name)
                training.train_and_evaluate(config, workdir, stop=stop, dataset=dataset)
        except training.Interrupted:
            return "stopped"
        except training.StorageError:
            raise
        except Exception as error:
            # It is the same arithmetic the next time; all else may have been put right.
            again = not isinstance(error, training.NonFiniteError)
            reason = " ".join(str(error).split()) or type(error).__name__
            study.note_failure(job.name, reason, again=again)
            return "failed"
        study.forget_failure(job.name)
        return "finished"
