"""A finished run with its audit, and where its data set has its examples."""

import contextlib
import dataclasses
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from dal_jax import data
from dal_jax.analysis import LabelIssues, of_dynamics, rank_quality
from dal_jax.config import TrainConfig, config_of
from dal_jax.data.contents import places_of
from dal_jax.errors import InputError
from dal_jax.files import why_unread
from dal_jax.noise import NoiseRecord
from dal_jax.training.workdir import Workdir

TABLE = "label_issues.csv"
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Audited:
    """A finished run and its audit, in the order of ``noise.npz``.

    Attributes:
      issues: which labels are likely wrong.
      record: the labels that the run was trained on.
      class_names: one per class.
      names: bytes ``[N]``, the examples' paths; ``None`` where they have none.
      history: uint8 ``[N, T]``, the given label's probability in 255ths.
      config: what was trained; ``None`` for a run of objects.
      files: the run's directory.
    """

    issues: LabelIssues
    record: NoiseRecord
    class_names: Sequence[str]
    names: np.ndarray | None
    history: np.ndarray
    config: TrainConfig | None
    files: Workdir

    def quality(self) -> dict[str, float]:
        """Returns how well the audit finds wrong labels, where these are known."""
        clean = self.record.clean_labels
        if clean is None:
            return {}
        wrong = self.record.noisy_labels != clean
        found = rank_quality(-self.issues.rank, wrong, self.issues.num_issues)
        return {
            "auroc": found.auroc,
            "average_precision": found.average_precision,
            "precision_at_num_issues": found.precision,
            "recall_at_num_issues": found.recall,
        }


@contextlib.contextmanager
def audited(workdir: str | os.PathLike[str]) -> Iterator[Audited]:
    """Audits a finished run and holds its directory as long as the context lasts.

    Raises:
      InputError: there is no finished run, or it gathered nothing; or it is in use.
    """
    files = Workdir(workdir)
    if not (files.path / "config.json").is_file():
        raise InputError(
            f"workdir {files.path} holds no run: expected the directory that dal-jax "
            "train wrote; give another --workdir"
        )
    with files.locked():
        yield _audit(files)


def _audit(files: Workdir) -> Audited:
    if files.read_summary() is None:
        raise InputError(
            f"the run in {files.path} has not finished: expected a finished run; give "
            "the same training command again to finish it"
        )
    path = files.path / "dynamics.npz"
    if not path.is_file():
        raise InputError(
            f"the run in {files.path} has no dynamics.npz, as older versions wrote "
            "none and there is none where examples have several labels: expected the "
            "record of what was seen of every example; train again in another --workdir"
        )
    record = NoiseRecord.load(files.noise)
    class_names = files.read_json("preprocessing.json")["class_names"]
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            issues = of_dynamics(record.noisy_labels, arrays, len(class_names))
            names = arrays.get("names")
            history = arrays["history"]
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read ({why_unread(error)}): expected the file "
            "that the run wrote; restore it, or train again in another --workdir"
        ) from None
    # A run that was ended early has nothing in its last columns.
    seen = int(np.max(np.flatnonzero(history.any(axis=0)), initial=0)) + 1
    return Audited(
        issues=issues,
        record=record,
        class_names=class_names,
        names=names,
        history=history[:, :seen],
        config=config_of(files.read_json("config.json")),
        files=files,
    )


def positions_in(audit: Audited, source: data.Split) -> np.ndarray:
    """Returns where a source has the run's examples, if it still has them."""
    positions, same = places_of(source.index, audit.record.index)
    if audit.names is not None and source.names is not None:
        now = [os.fsencode(name) for name in source.names[positions]]
        same &= np.array(now) == audit.names
    elif audit.record.clean_labels is not None and source.clean_labels is not None:
        same &= source.clean_labels[positions] == audit.record.clean_labels
    if not same.all():
        raise InputError(
            f"the data set has changed since the run, {int((~same).sum())} of "
            f"{len(same)} examples are not where they were: expected it unchanged; "
            "restore it"
        )
    return positions
