"""Runs on the workers of a Dask cluster, which all see the comparison's directory."""

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from dal_jax.comparing.engine_local import STOPPED
from dal_jax.comparing.job import Job, Outcome, train
from dal_jax.errors import InputError
from dal_jax.training.stopping import stop_signals

# Seconds in which a scheduler must answer.
_PATIENCE = 10


def run_dask(
    jobs: Sequence[Job],
    address: str,
    report: Callable[[Job, Outcome], None],
    say: Callable[[str], None],
) -> None:
    """Trains runs on a cluster, each on one worker at a time.

    A run whose worker dies is given to another one, which goes on from its checkpoint.

    Args:
      jobs: the runs.
      address: the scheduler's, such as ``tcp://host:8786``.
      report: called with each job and how it ended.
      say: told in a line what a person would want to know.

    Raises:
      InputError: the scheduler does not answer, or a worker cannot train.
      Interrupted: a signal came; the workers end what they are training.
    """
    distributed = _distributed()
    client = _connect(distributed, address)
    with client, stop_signals() as stop, stop.at_once(STOPPED):
        if not client.scheduler_info()["workers"]:
            say(f"waiting for workers at {address}")
        _collect(distributed, client, jobs, report)


def check_scheduler(address: str) -> None:
    """Raises InputError where no scheduler answers."""
    _connect(_distributed(), address).close()


def _connect(distributed: Any, address: str) -> Any:
    # What it logs is also raised, and ends the command with one line.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        return distributed.Client(address, timeout=_PATIENCE)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address!r} ({_reason(error)}): expected "
            "the address that dask scheduler prints, such as tcp://host:8786; start "
            "one or correct --scheduler"
        ) from error


def _collect(
    distributed: Any,
    client: Any,
    jobs: Sequence[Job],
    report: Callable[[Job, Outcome], None],
) -> None:
    futures = {client.submit(train, job, pure=False): job for job in jobs}
    results = distributed.as_completed(list(futures))
    for future in results:
        job = futures.pop(future)
        try:
            outcome = future.result()
        except distributed.KilledWorker:
            outcome = job.give_up("workers of Dask")
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"a worker cannot train {job.name} ({_reason(error)}): expected "
                "dal_jax of this version on every worker; install it there"
            ) from error
        if outcome in ("busy", "stopped"):
            again = client.submit(train, job, pure=False)
            futures[again] = job
            results.add(again)
        else:
            report(job, outcome)


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise InputError(
            "engine dask needs distributed, which is not installed: expected it here "
            "and on every worker; install it with pip install 'dal_jax[dask]'"
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
