"""The checkpoints of a run: atomic, asynchronous, verified when they are read.

Each checkpoint holds the arrays, their digest and that of the run's configuration, and
a list of its files, which is written before Orbax gives the checkpoint its name. Three
things can be wrong with a checkpoint. If its files differ from the list, or its arrays
from the digest, it is *damaged*: it is moved aside, and the one before is used. If it
is *of another configuration*, or *unreadable now* (for lack of memory, for example),
the run stops with one line, and nothing is moved.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax

from dal_jax.errors import InputError
from dal_jax.files import sync_directory
from dal_jax.training import leaves, manifest, shelf
from dal_jax.training.processes import (
    agree,
    any_process,
    barrier,
    is_main_process,
    refuse_together,
)
from dal_jax.training.store import Store, reason
from dal_jax.training.storing import StorageError, cannot_write
from dal_jax.training.workdir import Workdir

PyTree = Any


class Checkpoints:
    """The checkpoints of one run: the newest few and the best by a metric."""

    def __init__(self, files: Workdir, keep: int, best: str | None = None):
        """Takes the directory of a run that has begun; opens it when first used.

        Args:
          files: the run's.
          keep: how many of the newest are kept.
          best: a metric given to :meth:`save` by which the best one is kept as well.
        """
        self._files, self._directory = files, files.checkpoints
        self._store = Store(self._directory, keep, best, self._seal)
        self._saving = -1

    def save(
        self, step: int, arrays: PyTree, metrics: dict[str, float] | None = None
    ) -> None:
        """Begins to save; returns when the arrays may be changed again.

        A step that is saved again keeps its old copy until the new one is whole.

        Raises:
          StorageError: this one, or the one before, could not be written.
        """
        with self._writing():
            self._finish()
            if step in self._store.steps():
                self._put_away(step)
            self._saving = step
            digest = {"arrays": leaves.digest(arrays)}
            if is_main_process():
                digest["config"] = self._files.digest
            self._store.save(step, arrays, digest, metrics)

    def restore(
        self, abstract: PyTree, say: Callable[[str], None], later: PyTree = ()
    ) -> tuple[int, PyTree] | None:
        """Returns the newest whole checkpoint's step and arrays, None if none was made.

        Args:
          abstract: shapes, dtypes and shardings that the arrays must have.
          say: told, a line each, which checkpoints are damaged.
          later: arrays, by the names that they have in ``abstract``, that an earlier
            version of the program did not save. A checkpoint that has none of them
            is given these.

        Raises:
          InputError: the checkpoint is of another configuration or another network.
          StorageError: it cannot be read now, or all that there were are damaged.
        """
        refuse_together(self._recover)
        while (step := agree(self._newest())) >= 0:
            arrays, damage = self._read(step, abstract, later)
            if damage is None:
                return step, arrays
            say(
                f"checkpoint {step} is damaged ({damage}): moved to "
                f"{shelf.DAMAGED}; going back further"
            )
            self._set_aside(step)
        refuse_together(self._check_had_none)
        with self._writing():
            self._store.open()
        return None

    def wait(self) -> None:
        """Waits for what is being saved."""
        with self._writing():
            self._finish()

    def close(self) -> None:
        """Waits for what is being saved and lets go of the directory."""
        with self._writing():
            try:
                self._finish()
            finally:
                self._store.close()

    def _seal(self) -> None:
        """Lists the files of a checkpoint that is complete but for its name.

        Orbax calls this in its own thread, before it renames the directory.
        """
        if is_main_process():
            for unnamed in self._directory.glob(f"{self._saving}.*"):
                manifest.write(unnamed)

    def _finish(self) -> None:
        """Waits for what is being saved."""
        if self._saving < 0:
            return
        try:
            self._store.wait()
        finally:
            self._saving = -1
        if is_main_process():
            sync_directory(self._directory)
            self._settle()

    def _put_away(self, step: int) -> None:
        if is_main_process():
            shelf.put_away(self._directory, step)
        barrier(f"checkpoint {step} put away")
        self._store.reload()

    def _settle(self) -> None:
        shelf.settle(self._directory)
        if shelf.newest(self._directory) >= 0:
            self._files.mark.note_checkpoint()

    # What can be wrong with a checkpoint.

    def _recover(self) -> None:
        """Undoes what a kill left, and notes that there is a checkpoint."""
        if is_main_process():
            with self._writing():
                self._settle()

    def _newest(self) -> int:
        return shelf.newest(self._directory) if is_main_process() else -1

    def _read(
        self, step: int, abstract: PyTree, later: PyTree
    ) -> tuple[PyTree, str | None]:
        """Returns a checkpoint's arrays, or None and what is damaged about it."""
        arrays = None
        damage = refuse_together(lambda: self._damage(step))
        if not any_process(damage is not None):
            digest = refuse_together(lambda: self._identify(step))
            wanted, given = leaves.by_name(abstract), leaves.by_name(later)
            found = refuse_together(lambda: self._found(step, wanted, given.keys()))
            if digest["arrays"] != leaves.digest(list(found.values())):
                damage = "its arrays are not those that were saved"
            found = given | found
            arrays = jax.tree.unflatten(
                jax.tree.structure(abstract), [found[name] for name in wanted]
            )
        if any_process(damage is not None):
            return None, damage or "another process could not read it"
        return arrays, None

    def _damage(self, step: int) -> str | None:
        if not is_main_process():
            return None
        with self._reading(step):
            return manifest.damage(self._directory / str(step))

    def _identify(self, step: int) -> dict[str, int]:
        with self._reading(step):
            digest = self._store.digest(step)
        if is_main_process() and digest["config"] != self._files.digest:
            raise InputError(
                f"checkpoint {step} in {self._directory} is of a run with another "
                "configuration: expected this run's checkpoints only; move it "
                "elsewhere, and run the same command again"
            )
        return digest

    def _found(
        self, step: int, wanted: dict[str, Any], later: Collection[str]
    ) -> dict[str, Any]:
        """Returns the arrays of a checkpoint by name, in the order of those wanted."""
        with self._reading(step):
            stored = self._store.shapes(step)
            kinds = leaves.by_name(stored)
            if not kinds.keys() & set(later):
                wanted = {k: x for k, x in wanted.items() if k not in later}
            self._check_fits(step, kinds, wanted)
            # In the containers in which they were stored, which may be others now.
            target = jax.tree_util.tree_map_with_path(
                lambda path, _: wanted[leaves.name(path)], stored
            )
            found = leaves.by_name(self._store.arrays(step, target))
        return {name: found[name] for name in wanted}

    def _check_fits(
        self, step: int, stored: dict[str, Any], wanted: dict[str, Any]
    ) -> None:
        for name in sorted(stored.keys() | wanted.keys()):
            before, now = leaves.kind(stored.get(name)), leaves.kind(wanted.get(name))
            if before != now:
                raise InputError(
                    f"checkpoint {step} in {self._directory} does not fit: {name} was "
                    f"{before}, now {now}; expected the network and the optimizer that "
                    "it was saved with; go on with the version that saved it, or "
                    "--overwrite to start anew"
                )

    def _set_aside(self, step: int) -> None:
        self._store.close()
        if is_main_process():
            with self._writing():
                shelf.set_aside(self._directory, step)
        barrier(f"checkpoint {step} set aside")

    def _check_had_none(self) -> None:
        damaged = self._directory.with_name(shelf.DAMAGED)
        had_some = is_main_process() and (
            damaged.exists() or self._files.mark.has_checkpoints
        )
        if had_some:
            raise StorageError(
                f"no checkpoint in {self._directory} can be restored, and there were "
                f"some (those that are damaged are in {shelf.DAMAGED}): the run "
                "cannot go on; bring one back, or --overwrite to start anew"
            )

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise StorageError(
                f"checkpoint {step} in {self._directory} cannot be read now "
                f"({reason(error)}); nothing was changed: fix that, and the same "
                "command goes on, or move it elsewhere to go on from the one before"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (InputError, StorageError):
            raise
        except Exception as error:
            raise cannot_write(self._directory, reason(error)) from error
