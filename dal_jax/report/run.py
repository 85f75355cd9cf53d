"""What the directory of a run holds, finished or not, without its checkpoints."""

import dataclasses
import fcntl
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dal_jax.config import TrainConfig, config_of
from dal_jax.errors import InputError
from dal_jax.files import why_unread
from dal_jax.noise import NoiseRecord
from dal_jax.training.mark import read_json, read_lines
from dal_jax.training.workdir import Workdir

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What is predicted of the examples of a split at the end.

    Attributes:
      split: ``"test"``, or ``"validation"``, whose labels may be wrong; without the
        examples whose label is below 0, which count nowhere.
      index: integers ``[N]``, original indices.
      label: integers ``[N]``.
      predicted: integers ``[N]``.
      probability: floating ``[N]``, of the predicted class.
    """

    split: str
    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label, bool ``[N]``."""
        return self.predicted == self.label


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """A run as its directory tells of it.

    Attributes:
      files: the directory.
      state: ``"finished"``, ``"stopped"`` or ``"running"``.
      values: what ``config.json`` holds.
      config: what was trained; ``None`` for a run of objects.
      class_names: one a class.
      inputs: what ``preprocessing.json`` holds.
      record: the labels that the run is trained on; ``None`` if they are not there.
      entries: the evaluations so far.
      summary: what ``summary.json`` holds, or ``{}``.
      sessions: versions and devices, one entry a change of them.
      history: uint8 ``[N, T]``, the given label's probability in 255ths, or ``None``.
      predicted: of the test set or of what validates, or ``None``.
    """

    files: Workdir
    state: str
    values: Mapping[str, Any]
    config: TrainConfig | None
    class_names: Sequence[str]
    inputs: Mapping[str, Any]
    record: NoiseRecord | None
    entries: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]
    history: np.ndarray | None
    predicted: Predicted | None

    @property
    def option(self) -> Mapping[str, Any]:
        """How the run is carried out, ``num_epochs`` among others."""
        return self.values.get("objects", {}).get("options", self.values)

    @property
    def last(self) -> Mapping[str, Any]:
        """The last evaluation, ``{}`` if there is none."""
        return self.entries[-1] if self.entries else {}

    @property
    def mislabelled(self) -> np.ndarray | None:
        """Which given labels are wrong, bool of the labels' shape; ``None`` if unknown.

        Also ``None`` where none is wrong, so that there is nothing to tell apart.
        """
        if self.record is None or self.record.clean_labels is None:
            return None
        wrong = self.record.noisy_labels != self.record.clean_labels
        return wrong if wrong.any() else None

    def curve(self, name: str) -> np.ndarray:
        """Returns a number of each evaluation, floating; nan where it is not given."""
        values = [entry.get(name) for entry in self.entries]
        return np.array([math.nan if x is None else float(x) for x in values])

    @property
    def q_passes_1(self) -> float | None:
        """The epoch at which the schedule's q passes 1; ``None`` if it does not."""
        q, epochs = self.curve("q"), self.curve("epoch")
        passes = np.flatnonzero((q[:-1] < 1) & (q[1:] >= 1))
        if not len(passes):
            return None
        i = passes[0]
        return float(epochs[i] + (1 - q[i]) / (q[i + 1] - q[i]) * np.diff(epochs)[i])


def read(workdir: Any, *, summary: Mapping[str, Any] | None = None) -> ReportedRun:
    """Returns what the directory of a run holds, and changes nothing there.

    Args:
      workdir: the directory.
      summary: of a run that ends this moment and has not written it yet.

    Raises:
      InputError: there is no run, or a file of it is damaged.
    """
    files = workdir if isinstance(workdir, Workdir) else Workdir(workdir)
    if not (files.path / "config.json").is_file():
        raise InputError(
            f"workdir {files.path} holds no run: expected the directory that dal-jax "
            "train wrote; give another --workdir"
        )
    values = files.read_json("config.json")
    if summary is None:
        summary = files.read_summary()
    inputs = read_json(files.path / "preprocessing.json")
    record = NoiseRecord.load(files.noise) if files.noise.exists() else None
    num_classes = 0 if record is None else record.num_classes
    dynamics = _arrays(files, "dynamics.npz", ("history",))
    predicted = _arrays(
        files,
        "predictions.npz",
        ("split", "index", "label", "predicted", "probability"),
    )
    return ReportedRun(
        files=files,
        state=_state(files, summary),
        values=values,
        config=config_of(values),
        class_names=inputs.get("class_names") or list(map(str, range(num_classes))),
        inputs=inputs,
        record=record,
        entries=read_lines(files.path / "metrics.jsonl"),
        summary=summary or {},
        sessions=read_json(files.path / "environment.json").get("sessions", []),
        history=None if dynamics is None else dynamics["history"],
        predicted=None if predicted is None else _predicted(predicted),
    )


def _predicted(arrays: dict[str, np.ndarray]) -> Predicted:
    split = str(arrays.pop("split"))
    counted = arrays["label"] >= 0
    return Predicted(split, **{name: x[counted] for name, x in arrays.items()})


def _state(files: Workdir, summary: Mapping[str, Any] | None) -> str:
    if summary is not None:
        return "finished"
    lock = files.path / ".lock"
    if lock.exists():
        with lock.open() as held:
            try:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return "running"
    return "stopped"


def _arrays(
    files: Workdir, name: str, wanted: Sequence[str]
) -> dict[str, np.ndarray] | None:
    """Returns some arrays of a file of the run; ``None`` if there is no such file."""
    path = files.path / name
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in wanted}
    except _UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({why_unread(error)}): expected the file "
            "that the run wrote; restore it, or move it away for a report without it"
        ) from None
