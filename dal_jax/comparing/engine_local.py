"""Runs on this machine: one process a core, each with a core of its own.

Processes live as long as there is work, so each imports JAX and loads the data once.
One that dies is replaced, and its run goes on from its checkpoint.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

from dal_jax.comparing.job import ATTEMPTS, Job, Outcome, train, train_unless
from dal_jax.training.stopping import Interrupted, stop_signals

Report = Callable[[Job, Outcome], None]

STOPPED = "stopped; runs in progress are saved, and the same command goes on from here"
# Seconds in which a process saves its run when it is asked to stop.
_TO_SAVE = 20.0


def run_local(
    jobs: Sequence[Job], processes: int, report: Report, tick: Callable[[], None]
) -> None:
    """Trains runs in this process, or in several others at a time.

    Args:
      jobs: the runs.
      processes: how many at a time; one is this process itself.
      report: called with each job and how it ended.
      tick: called about every second.

    Raises:
      Interrupted: a signal came; what was in progress is saved.
    """
    processes = min(processes, len(jobs))
    if processes > 1:
        _in_processes(jobs, processes, report, tick)
        return
    waiting = deque(jobs)
    with stop_signals() as stop:
        while waiting:
            job = waiting.popleft()
            outcome = "stopped" if stop.signal_number else train_unless(stop, job)
            if outcome == "stopped":
                raise Interrupted(STOPPED, stop.signal_number)
            if outcome == "busy":
                waiting.append(job)
            else:
                report(job, outcome)


def default_processes() -> int:
    """Returns as many as there are cores; on an accelerator one."""
    import jax

    return len(_cores()) if jax.default_backend() == "cpu" else 1


def shares(cores: Sequence[int], processes: int) -> list[list[int]]:
    """Returns the cores of each process; with more processes than cores they share.

    Example:
      >>> shares([0, 1, 2, 3, 4], 2), shares([6, 7], 3)
      ([[0, 1], [2, 3, 4]], [[6], [7], [6]])
    """
    if processes > len(cores):
        return [[cores[i % len(cores)]] for i in range(processes)]
    ends = [i * len(cores) // processes for i in range(processes + 1)]
    return [list(cores[ends[i] : ends[i + 1]]) for i in range(processes)]


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


class _Worker:
    """A process that trains one run after the other.

    Attributes:
      pipe: what it says how a run ended by; readable also when it has died.
      death: how the last process of this worker that died did so.
    """

    def __init__(self, cores: Sequence[int]):
        self._cores, self._works, self.death = cores, False, ""
        self.pipe, self._process = self._start()

    def _start(self) -> tuple[Any, Any]:
        # A fork would copy JAX's threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._cores))
        process.start()
        theirs.close()
        return ours, process

    def give(self, job: Job) -> Job:
        """Gives the process a run to train; returns it."""
        self._works = True
        with contextlib.suppress(OSError):  # dead, as reading the pipe will tell
            self.pipe.send(job)
        return job

    def take(self) -> Outcome | None:
        """Returns how the run ended, None where the process died and is replaced."""
        self._works = False
        try:
            outcome = self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            self.death = f"exit status {self._process.exitcode}"
            self.pipe.close()
            self.pipe, self._process = self._start()
            return None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stop(self) -> None:
        """Asks the process to end, and to save its run before if it has one."""
        if self._works and self._process.is_alive():
            self._process.terminate()
        self.pipe.close()

    def end(self, until: float) -> None:
        """Waits for the process to end, and ends it where that takes too long."""
        self._process.join(max(until - time.monotonic(), 0.0))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _in_processes(
    jobs: Sequence[Job], processes: int, report: Report, tick: Callable[[], None]
) -> None:
    waiting, deaths = deque(jobs), Counter[str]()
    workers: list[_Worker] = []
    with stop_signals() as stop, stop.at_once(STOPPED):
        try:
            for cores in shares(_cores(), processes):
                workers.append(_Worker(cores))
            working = {w: w.give(waiting.popleft()) for w in workers}
            while working:
                ready = connection.wait([w.pipe for w in working], timeout=1.0)
                for worker in [w for w in working if w.pipe in ready]:
                    job, outcome = working.pop(worker), worker.take()
                    if outcome is None:
                        deaths[job.name] += 1
                        if deaths[job.name] < ATTEMPTS:
                            waiting.appendleft(job)
                        else:
                            report(job, job.give_up(worker.death))
                    elif outcome in ("busy", "stopped"):
                        waiting.append(job)
                    else:
                        report(job, outcome)
                    if waiting:
                        working[worker] = worker.give(waiting.popleft())
                tick()
        finally:
            _end(workers)


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.stop()
    until = time.monotonic() + _TO_SAVE
    for worker in workers:
        worker.end(until)


def _serve(pipe: Any, cores: Sequence[int]) -> None:
    """What a process does: jobs come, and how they ended goes back."""
    # Before JAX starts, which takes as many threads as it has cores.
    os.sched_setaffinity(0, cores)
    # Ctrl-C goes to all processes of the terminal's group; the first one decides.
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = train(job)
        except Exception as error:
            outcome = error
        try:
            pipe.send(outcome)
        except OSError:
            return


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        # Whatever it is doing: the run goes on from its checkpoint.
        os._exit(1)
