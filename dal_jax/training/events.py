"""Event files for TensorBoard: a copy of ``metrics.jsonl``, which stays the source."""

import importlib
import importlib.util
import shutil
import time
from typing import Any

from dal_jax.errors import InputError
from dal_jax.training.storing import storing
from dal_jax.training.workdir import Workdir

DIRECTORY = "tensorboard"


def require() -> None:
    """Raises InputError where the package that writes event files is missing."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "event files need tensorboardX, which is not installed: install it with "
            "pip install 'dal_jax[tensorboard]', or leave --tensorboard out"
        )


class Events:
    """The event file of a run's session, a scalar a number of an evaluation.

    Each session writes a file of its own that begins with all evaluations so far, in
    the place of the files before it. So no point is there twice and none is missing,
    also where a session before wrote no events.
    """

    def __init__(self, files: Workdir):
        self._files, self._directory = files, files.path / DIRECTORY
        self._writer: Any = None
        self._began = 0.0

    def begin(self, entries: list[dict[str, Any]]) -> None:
        """Writes the evaluations so far."""
        writers = importlib.import_module("tensorboardX.event_file_writer")
        protocol = importlib.import_module("tensorboardX.proto.event_pb2")
        self._files.refuse_strangers(DIRECTORY)
        earlier = entries[-1]["elapsed_seconds"] if entries else 0.0
        self._began = time.time() - earlier
        with storing(self._directory):
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory.mkdir()
            # Not SummaryWriter: its thread would hang where the disk is full.
            self._writer = writers.EventsWriter(str(self._directory / "events"))
            # A TensorBoard that watches forgets what it has read of the files before.
            start = protocol.SessionLog(status=protocol.SessionLog.START)
            self._writer.write_event(
                protocol.Event(wall_time=self._began, step=0, session_log=start)
            )
            for entry in entries:
                self._write(entry)
            self._writer.flush()

    def append(self, entry: dict[str, Any]) -> None:
        """Adds one evaluation, on disk when this returns."""
        with storing(self._directory):
            self._write(entry)
            self._writer.flush()

    def close(self) -> None:
        """Lets go of the file."""
        if self._writer is not None:
            with storing(self._directory):
                self._writer.close()

    def _write(self, entry: dict[str, Any]) -> None:
        protocol = importlib.import_module("tensorboardX.proto.event_pb2")
        summaries = importlib.import_module("tensorboardX.proto.summary_pb2")
        values = [
            summaries.Summary.Value(tag=name, simple_value=value)
            for name, value in entry.items()
            if isinstance(value, int | float) and name != "step"
        ]
        self._writer.write_event(
            protocol.Event(
                wall_time=self._began + entry["elapsed_seconds"],
                step=entry["step"],
                summary=summaries.Summary(value=values),
            )
        )
