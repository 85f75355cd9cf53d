"""Silences Orbax for a command that reports an error in one line itself."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """A context in which Orbax reports nothing twice; for a command.

    What Orbax raises outside of a call, in a thread or when a reader is dropped, is
    also raised by the next save, by ``close``, or by ``restore``.
    """
    hooks = threading.excepthook, sys.excepthook, sys.unraisablehook

    def thread_failed(failure: Any) -> None:
        if not type(failure.thread).__module__.startswith("orbax."):
            hooks[0](failure)

    def callback_failed(*failure: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            hooks[1](*failure)

    def reader_dropped(failure: Any) -> None:
        code = getattr(failure.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        # The last callback of a read or write that failed finds its loop gone.
        late = str(failure.exc_value) == "Event loop is closed"
        if not (of_orbax or late):
            hooks[2](failure)

    threading.excepthook = thread_failed
    sys.excepthook, sys.unraisablehook = callback_failed, reader_dropped
    try:
        yield
    finally:
        threading.excepthook, sys.excepthook, sys.unraisablehook = hooks
