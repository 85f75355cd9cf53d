"""The record of what was done to the labels."""

import dataclasses
import functools
import json
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from dal_jax.errors import InputError
from dal_jax.files import require_file, why_unread, write_atomically

# Of more classes there is no transition matrix: it takes 8 K^2 bytes, half a gigabyte
# at this K. Sets with label noise have fewer (WebVision: 5,000), vocabularies more.
MOST_CLASSES = 8192

# Errors that numpy raises for damaged or mislabelled files.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    MemoryError,
    zlib.error,
    zipfile.BadZipFile,
)


def realised_rate(noisy_labels: np.ndarray, clean_labels: np.ndarray | None) -> float:
    """Returns the share of labels that are wrong, nan if unknown.

    Args:
      noisy_labels: ``[N]`` integers.
      clean_labels: ``[N]`` integers, or ``None``.

    Returns:
      A number in [0, 1], or nan.

    Example:
      >>> realised_rate(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
      0.25
    """
    if clean_labels is None or not len(clean_labels):
        return float("nan")
    return float(np.mean(noisy_labels != clean_labels))


def count_transitions(
    noisy_labels: np.ndarray, clean_labels: np.ndarray | None, num_classes: int
) -> np.ndarray:
    """Returns the observed share of each noisy label among each clean class.

    Args:
      noisy_labels: ``[...]`` integers in ``[0, num_classes)``.
      clean_labels: likewise, or ``None``. What is below 0 is no class and counts
        nowhere.
      num_classes: the matrix's size.

    Returns:
      ``[num_classes, num_classes]`` float64; row ``i`` estimates ``P(noisy = j |
      clean = i)``. Rows of classes without an example are nan. If the clean labels are
      unknown, everything is nan.

    Example:
      >>> count_transitions(np.array([0, 1, 1]), np.array([0, 0, 1]), 2)
      array([[0.5, 0.5],
             [0. , 1. ]])
    """
    if clean_labels is None:
        return np.full((num_classes, num_classes), np.nan)
    counted = (clean_labels >= 0) & (noisy_labels >= 0)
    pairs = clean_labels[counted].astype(np.int64) * num_classes + noisy_labels[counted]
    counts = np.bincount(pairs, minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes).astype(np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)


@dataclasses.dataclass(frozen=True)
class NoiseRecord:
    """Noisy labels and how they were made.

    Attributes:
      noisy_labels: int32 ``[N]``, in the order of the training examples used.
      clean_labels: int32 ``[N]``, or ``None`` if unknown. Only reports read them.
      index: int64 ``[N]``, each example's original index in its source.
      nominal_rate: the requested rate; for a transition matrix, the expected share of
        wrong labels; nan for labels from a file.
      realised_rate: the share of wrong labels; nan if the clean labels are unknown.
      num_classes: the number of classes.
      kind: the kind of noise, one of ``dal_jax.noise.kinds()``.
      options: everything else that decided the outcome, as JSON values.
    """

    noisy_labels: np.ndarray
    clean_labels: np.ndarray | None
    index: np.ndarray
    nominal_rate: float
    realised_rate: float
    num_classes: int
    kind: str
    options: dict[str, Any]

    @classmethod
    def count(
        cls,
        noisy_labels: np.ndarray,
        clean_labels: np.ndarray | None,
        index: np.ndarray,
        *,
        num_classes: int,
        nominal_rate: float,
        kind: str,
        options: dict[str, Any],
    ) -> "NoiseRecord":
        """Returns a record, counting the realised rate.

        Args:
          noisy_labels: ``[N]`` integers.
          clean_labels: ``[N]`` integers, or ``None``.
          index: ``[N]`` original indices.
          num_classes: of the data set.
          nominal_rate: the requested rate.
          kind: the kind of noise.
          options: everything else that decided the outcome.

        Returns:
          The record.
        """
        if clean_labels is not None:
            clean_labels = np.asarray(clean_labels, np.int32)
        noisy_labels = np.asarray(noisy_labels, np.int32)
        return cls(
            noisy_labels=noisy_labels,
            clean_labels=clean_labels,
            index=np.asarray(index, np.int64),
            nominal_rate=float(nominal_rate),
            realised_rate=realised_rate(noisy_labels, clean_labels),
            num_classes=num_classes,
            kind=kind,
            options=dict(options),
        )

    @functools.cached_property
    def transition_matrix(self) -> np.ndarray | None:
        """Float64 ``[num_classes, num_classes]``, see :func:`count_transitions`.

        ``None`` where there are more than ``MOST_CLASSES`` classes.
        """
        if self.num_classes > MOST_CLASSES:
            return None
        return count_transitions(self.noisy_labels, self.clean_labels, self.num_classes)

    def take(self, positions: np.ndarray) -> "NoiseRecord":
        """Returns the record of some of the examples, with the rate recounted.

        Args:
          positions: the examples' positions in this record, in the wanted order.

        Returns:
          A new record.
        """
        positions = np.asarray(positions)
        clean = self.clean_labels
        return NoiseRecord.count(
            self.noisy_labels[positions],
            None if clean is None else clean[positions],
            self.index[positions],
            num_classes=self.num_classes,
            nominal_rate=self.nominal_rate,
            kind=self.kind,
            options=self.options,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the record as one ``.npz``, whole or not at all.

        Args:
          path: of the file, usually named ``noise.npz``; its directory must exist. An
            existing file is replaced.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["options"] = json.dumps(self.options, sort_keys=True)
        if self.transition_matrix is not None:
            fields["transition_matrix"] = self.transition_matrix
            del fields["num_classes"]  # the matrix tells it, see load
        if self.clean_labels is None:
            del fields["clean_labels"]
        write_atomically(path, lambda file: np.savez_compressed(file, **fields))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "NoiseRecord":
        """Reads what :meth:`save` wrote.

        Args:
          path: of the ``.npz``.

        Returns:
          The record, equal to the one saved.

        Raises:
          InputError: no such file, or not a noise record.
        """
        fields = read_npz(path)
        if "transition_matrix" in fields:  # it tells their number
            fields["num_classes"] = np.array(len(fields["transition_matrix"]))
        required = {f.name for f in dataclasses.fields(cls)} - {"clean_labels"}
        missing = sorted(required - set(fields))
        if missing:
            raise InputError(
                f"{path} is not a noise record, {', '.join(missing)} missing: expected "
                "a noise.npz written by dal-jax noise or by train.py; give such a file"
            )
        return cls(
            noisy_labels=fields["noisy_labels"],
            clean_labels=fields.get("clean_labels"),
            index=fields["index"],
            nominal_rate=float(fields["nominal_rate"]),
            realised_rate=float(fields["realised_rate"]),
            num_classes=int(fields["num_classes"]),
            kind=str(fields["kind"]),
            options=json.loads(str(fields["options"])),
        )


def read_numpy(path: str | os.PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """Returns the content of an ``.npy`` or ``.npz`` file without unpickling.

    Args:
      path: of the file.

    Returns:
      The array of an ``.npy``, or the arrays of an ``.npz`` by name.

    Raises:
      InputError: the file is missing, damaged, or holds Python objects.
    """
    path = require_file(path, "numbers saved by numpy")
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            return {name: content[name] for name in content.files}
    except _UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read ({why_unread(error)}): expected numbers saved by "
            "numpy; save it again"
        ) from None


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an ``.npz`` file by name.

    Args:
      path: of the file.

    Returns:
      Its arrays.

    Raises:
      InputError: as for :func:`read_numpy`, or the file holds a single array.
    """
    content = read_numpy(path)
    if isinstance(content, np.ndarray):
        raise InputError(
            f"{path}: expected an .npz archive, got a single array; rename it to .npy"
        )
    return content
