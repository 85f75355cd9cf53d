"""SIGTERM and Ctrl-C: noticed at any time, obeyed within seconds, nothing lost.

A signal only sets a number, which the loop reads between calls of the device. Before
there is anything to save, the signal is raised instead. Python handles a signal only
when its own code runs, and a compiler or a reader of data may prevent that for minutes.
Then a thread that the system notifies at once saves what there is to save and ends the
process.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from tqdm import tqdm

from dal_jax.training.processes import is_alone

# Seconds that a signal may go unnoticed.
PATIENCE = 3.0


class Interrupted(RuntimeError):
    """A run that was asked to stop, saved itself and left."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class Stop:
    """Whether the run was asked to stop, and how it may be left.

    By itself it is never told of a signal, and so never asks for anything.

    Attributes:
      signal_number: the signal that came, 0 until then.
    """

    def __init__(self) -> None:
        self.signal_number: int = 0
        self._at_once = False
        self._leave: Callable[[], str] | None = None
        self._leaving = threading.Lock()

    @contextmanager
    def at_once(self, line: str) -> Iterator[None]:
        """Within it a signal raises :class:`Interrupted` with this line."""
        self._at_once = True
        try:
            with self.may_leave(lambda: line):
                yield
        except KeyboardInterrupt:
            if not self.signal_number:
                raise  # whoever handles signals here is somebody else
            raise Interrupted(line, self.signal_number) from None
        finally:
            self._at_once = False

    @contextmanager
    def may_leave(self, leave: Callable[[], str]) -> Iterator[None]:
        """Within it the process may end at any moment, if it does not hear.

        Args:
          leave: called before that, by another thread; saves what would be lost and
            returns the line to end with.
        """
        self._leave = leave
        try:
            yield
        finally:
            with self._leaving:
                self._leave = None

    def leave(self, leave: Callable[[], str]) -> NoReturn:
        """Raises :class:`Interrupted` with the line that ``leave`` returns."""
        with self._leaving:
            self._leave = None
            raise Interrupted(leave(), self.signal_number or signal.SIGTERM)

    def receive(self, number: int) -> None:
        """Notes a signal."""
        self.signal_number = number
        if self._at_once:
            raise KeyboardInterrupt

    def end_process(self, number: int) -> None:
        """Ends the process as soon as it may be left, unless it ends by itself."""
        while True:
            time.sleep(PATIENCE)
            with self._leaving:
                if self._leave is not None:
                    status = 128 + number
                    try:
                        line = self._leave()
                    except Exception as error:
                        status, line = 1, " ".join(str(error).split())
                    with tqdm.external_write_mode(sys.stderr):  # clears bars
                        print(f"error: {line}", file=sys.stderr, flush=True)
                        os._exit(status)


@contextmanager
def stop_signals(may_exit: bool = False) -> Iterator[Stop]:
    """A context in which SIGTERM and Ctrl-C go to the :class:`Stop` that it yields.

    For a command, which owns its process; a library call leaves signals alone.

    A second signal has its usual effect, so an impatient person can leave at once.

    Args:
      may_exit: end the process where it does not hear of a signal for seconds and may
        be left; never one of several, which would leave the others waiting.
    """
    stop = Stop()
    previous: dict[int, Any] = {}

    def receive(number: int, frame: Any) -> None:
        signal.signal(number, previous[number])
        stop.receive(number)

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, receive)
    except ValueError:
        may_exit = False  # not the main thread: whoever owns it handles signals
    try:
        with _watch(stop, may_exit and is_alone()):
            yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _watch(stop: Stop, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as Python demands
    # The system's own handler writes a signal's number there, whatever Python does.
    before = signal.set_wakeup_fd(writer)

    def watch() -> None:
        with os.fdopen(reader, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] in (signal.SIGTERM, signal.SIGINT):
                    stop.end_process(number[0])

    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
