"""A small file that says what a run of this program wrote in a directory.

Nothing else is ever removed. The file ``.dal_jax`` lists the run's names, each before
anything is written under it. A run of version 0.1.0 has no such file and is recognised
by the fields of its ``config.json``.
"""

import json
from pathlib import Path
from typing import Any

import dal_jax
from dal_jax.files import write_atomically

# All that the commands write into a run's directory.
NAMES = (
    "config.json",
    "noise.npz",
    "metrics.jsonl",
    "summary.json",
    "checkpoints",
    "damaged_checkpoints",
    "replaced_checkpoints",
    "profile",
    "preprocessing.json",
    "dynamics.npz",
    "report.html",
    "label_issues.csv",
    "label_issues.html",
    "audit.json",
    "environment.json",
    "predictions.npz",
    "tensorboard",
)
_OF_THE_TRAINER = NAMES[:8]
_FIELDS_0_1_0 = {
    "dataset",
    "noise",
    "loss",
    "model",
    "augmentation",
    "optimizer",
    "seeds",
    "seed",
    "num_epochs",
    "batch_size",
    "keep_checkpoints",
    "parallel",
    "precision",
    "on_nonfinite",
}
FILE = ".dal_jax"


class Mark:
    """The mark on a directory.

    Attributes:
      names: of what a run of this program wrote there, or may write.
      has_checkpoints: whether a checkpoint of that run has ever been whole.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        found = read_json(directory / FILE)
        if found.get("program") != "dal_jax":
            found = _of_0_1_0(directory)
        self.names: frozenset[str] = frozenset(found.get("names", ()))
        self.has_checkpoints: bool = bool(found.get("has_checkpoints", False))

    def strangers(self) -> list[str]:
        """Returns what bears a run's name there and was written by somebody else."""
        return [name for name in NAMES if self._exists(name) and name not in self.names]

    def claim(self, *, adopt: bool = False) -> None:
        """Lists all names as the run's, those excepted that are somebody else's.

        Args:
          adopt: what the trainer writes is the run's even if it is not listed, as in a
            copy that was made without hidden files.
        """
        names = self.names | {name for name in NAMES if not self._exists(name)}
        names |= set(_OF_THE_TRAINER if adopt and not self.names else ())
        if names != self.names:
            self._write(names, self.has_checkpoints)

    def begin(self) -> None:
        """Marks the directory of a run that has nothing yet, and lists all names."""
        names = self.names | {name for name in NAMES if not self._exists(name)}
        self._write(names, False)

    def note_checkpoint(self) -> None:
        """Notes that a checkpoint is whole; from then on the run has something."""
        if not self.has_checkpoints:
            self._write(self.names, True)

    def _exists(self, name: str) -> bool:
        path = self._directory / name
        return path.exists() or path.is_symlink()

    def _write(self, names: frozenset[str], has_checkpoints: bool) -> None:
        content = {
            "program": "dal_jax",
            "version": dal_jax.__version__,
            "names": sorted(names),
            "has_checkpoints": has_checkpoints,
        }
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(self._directory / FILE, lambda file: file.write(text.encode()))
        self.names, self.has_checkpoints = names, has_checkpoints


def _of_0_1_0(directory: Path) -> dict[str, Any]:
    config = read_json(directory / "config.json")
    return {"names": _OF_THE_TRAINER} if config.keys() >= _FIELDS_0_1_0 else {}


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; an empty one if there is none."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON objects in the lines of a file, up to one that is torn."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break  # torn by a kill, or still being written
    return entries
