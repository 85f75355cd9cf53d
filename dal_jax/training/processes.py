"""The processes of a run: how they find each other, agree, and exit together."""

import os
import re
import sys
import threading
from collections.abc import Callable
from typing import TypeVar, cast

import jax
import numpy as np

from dal_jax.errors import InputError

T = TypeVar("T")


def initialize(
    *,
    automatic: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    connect_seconds: int = 300,
) -> None:
    """Joins this process to the others of a run, before any device is used.

    Args:
      automatic: let JAX find the others (Slurm, Cloud TPU, Kubernetes).
      coordinator: ``host:port`` of process 0, where they are told by hand.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      connect_seconds: how long to wait for the others; then this process ends with
        exit status 2 and a line, for nothing can be raised out of JAX's wait.

    Raises:
      InputError: some of the three without the others, or numbers that do not fit.
    """
    told = (coordinator, num_processes, process_id)
    if not automatic and all(value is None for value in told):
        return
    if not automatic:
        _check_told(coordinator, num_processes, process_id)
    where = "automatically" if automatic else f"at {coordinator}"
    watch = threading.Timer(connect_seconds, _give_up, (where, connect_seconds))
    watch.daemon = True
    watch.start()
    try:
        told_by_hand = (
            {}
            if automatic
            else {
                "coordinator_address": coordinator,
                "num_processes": num_processes,
                "process_id": process_id,
            }
        )
        jax.distributed.initialize(
            **told_by_hand,
            # JAX's own end of waiting is a crash with a page of addresses.
            initialization_timeout=connect_seconds + 60,
            # So long a process that has failed alone waits for the others to leave.
            shutdown_timeout_seconds=60,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the run's processes did not find each other {where} ({reason}): expected "
            "a cluster that JAX knows, or a free port of process 0; see docs/scaling.md"
        ) from None
    finally:
        watch.cancel()


def barrier(name: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def refuse_together(attempt: Callable[[], T]) -> T:
    """Returns what ``attempt`` does, or raises on every process if it fails on one.

    A process that left alone would keep the others waiting for it.

    Raises:
      InputError: points at the process on which it failed.
      Exception: what this process's attempt raised.
      KeyboardInterrupt: likewise.
    """
    result, refusal = None, None
    try:
        result = attempt()
    except (Exception, KeyboardInterrupt) as error:
        refusal = error
    if any_process(refusal is not None):
        raise refusal or InputError(
            "another process of this run failed or was stopped: expected all to "
            "continue together; see what it printed"
        )
    return cast(T, result)


def local_rows(batch_size: int) -> slice:
    """Returns which rows of a global batch belong to this process."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def is_main_process() -> bool:
    """Returns whether this is the one process that writes and speaks."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Returns whether there is no other process in this run."""
    return jax.process_count() == 1


def agree(number: int) -> int:
    """Returns the main process's number on every process."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def whole(array: jax.Array) -> np.ndarray:
    """Returns an array that may be spread over processes, whole, on each of them."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def any_process(flag: bool) -> bool:
    """Returns on every process whether the flag is set on any of them."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def _check_told(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError(
            "--coordinator, --num_processes and --process_id were not all given: "
            "expected all three or none; give the missing ones"
        )
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise InputError(
            f"--coordinator={coordinator} is no address: expected host:port of process "
            "0; give its address"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id={process_id} does not fit --num_processes={num_processes}: "
            "expected it to be at least 0 and less than that"
        )


def _give_up(where: str, seconds: int) -> None:
    print(
        f"error: the run's processes did not find each other {where} within {seconds} "
        "s: expected all of them to be started; see that each runs and reaches "
        "process 0, or raise --connect_seconds",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
