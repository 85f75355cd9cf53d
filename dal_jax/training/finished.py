"""Reads what a finished run left in its directory, and changes nothing there.

It takes no lock and writes, moves or marks nothing. So the directory may be read-only,
and several processes may read it at once.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dal_jax.errors import InputError, unknown_name
from dal_jax.training import leaves, manifest, store
from dal_jax.training.mark import read_json, read_lines
from dal_jax.training.workdir import Workdir

PyTree = Any

CHECKPOINTS = ("last", "best")


class FinishedRun:
    """The directory of a finished run.

    Attributes:
      path: of the directory.
      config: what ``config.json`` holds.
      inputs: what ``preprocessing.json`` holds.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the small files.

        Raises:
          InputError: there is no run, or it has not finished, or it is an older
            version's, which did not describe its inputs.
        """
        self.path: Path = Path(path).absolute()  # Orbax takes no other
        self.config: dict[str, Any] = read_json(self.path / "config.json")
        if not self.config:
            raise InputError(
                f"{self.path} is no run of dal_jax, it has no config.json that can be "
                "read: expected the workdir of a finished run; give another workdir"
            )
        self._summary = read_json(self.path / "summary.json")
        if not self._summary:
            raise InputError(
                f"the run in {self.path} has not finished, it has no summary.json: "
                "expected a finished run; give the same training command again to "
                "finish it, or give another workdir"
            )
        self.inputs: dict[str, Any] = read_json(self.path / "preprocessing.json")
        if not self.inputs:
            raise InputError(
                f"the run in {self.path} has no preprocessing.json, which version "
                "0.1.0 did not write: expected a run of this version; train it again"
            )

    def predictor(self, which: str, abstract: tuple[PyTree, PyTree]) -> Any:
        """Returns the ``(params, model_state)`` that the run predicts with.

        They are the average over time where the run kept one.

        Args:
          which: ``"last"``, or ``"best"`` by accuracy on the noisy validation
            examples.
          abstract: shapes and dtypes that both must have.

        Raises:
          InputError: there is no such checkpoint, it is damaged, or it is of another
            run or another network.
        """
        if which not in CHECKPOINTS:
            raise unknown_name("checkpoint", which, CHECKPOINTS)
        directory = self._directory(self._best() if which == "best" else self._last())
        if not directory.is_dir():
            raise InputError(
                f"the run in {self.path} has no checkpoint {directory.name}: expected "
                "the one of its last step; restore it, or train again with --overwrite"
            )
        try:
            damage = manifest.damage(directory)
            if damage is not None:
                raise InputError(
                    f"checkpoint {directory} is damaged ({damage}): expected it as it "
                    "was saved; restore it, or train again with --overwrite"
                )
            return self._read(directory, abstract)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"checkpoint {directory} cannot be read ({store.reason(error)}): "
                "expected it as it was saved; restore it"
            ) from error

    def _read(self, directory: Path, abstract: tuple[PyTree, PyTree]) -> Any:
        if store.config_digest(directory) != Workdir(self.path).digest:
            raise InputError(
                f"checkpoint {directory} is of a run with another configuration: "
                "expected only those of this run; restore them"
            )
        stored = store.stored(directory)
        prefixes = ("0.average.0.", "0.average.1.")
        if not any(name.startswith(prefixes) for name in stored):
            prefixes = ("0.params.", "0.model_state.")
        wanted = {
            prefix + name: leaf
            for prefix, tree in zip(prefixes, abstract, strict=True)
            for name, leaf in leaves.by_name(tree).items()
        }
        of_network = {n: x for n, x in stored.items() if n.startswith(prefixes)}
        _check_fits(directory, of_network, wanted)
        found = store.read(directory, list(wanted))
        return jax.tree.unflatten(jax.tree.structure(abstract), list(found.values()))

    def _last(self) -> int:
        return self._summary["steps"]

    def _best(self) -> int:
        entries = read_lines(self.path / "metrics.jsonl")
        name = "validation_accuracy"
        accuracy = {entry["step"]: entry[name] for entry in entries if name in entry}
        if not accuracy:
            raise InputError(
                f"the run in {self.path} held out no validation examples, so none of "
                "its checkpoints is known as best: expected "
                "dataset.validation_fraction more than 0; take checkpoint=last"
            )
        kept = [step for step in accuracy if self._directory(step).is_dir()]
        return max(kept, key=lambda step: (accuracy[step], step), default=self._last())

    def _directory(self, step: int) -> Path:
        return self.path / "checkpoints" / str(step)


def _check_fits(
    directory: Path, stored: Mapping[str, Any], wanted: Mapping[str, np.ndarray]
) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        saved, given = leaves.kind(stored.get(name)), leaves.kind(wanted.get(name))
        if saved != given:
            raise InputError(
                f"checkpoint {directory} does not fit the network: {name} is {saved} "
                f"there and {given} in the network; expected the network that was "
                "trained; give that"
            )
