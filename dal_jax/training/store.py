"""Arrays in numbered directories, written and read by Orbax; nobody else knows it."""

import ctypes
import operator
import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dal_jax.training import leaves

PyTree = Any


class Store:
    """The checkpoints in a directory: the newest few and the best by a metric."""

    def __init__(
        self, directory: Path, keep: int, best: str | None, seal: Callable[[], None]
    ):
        """Touches nothing yet; the directory is opened when first used.

        Args:
          directory: of all checkpoints.
          keep: how many of the newest are kept.
          best: a metric given to :meth:`save` by which the best one is kept as well.
          seal: called, in Orbax's own thread, once a checkpoint is complete but for
            its name.
        """
        self._directory, self._keep, self._best = directory, keep, best
        self._seal = seal
        self._manager: Any = None

    def open(self) -> Any:
        """Returns Orbax's manager of the directory, which it makes if need be."""
        import orbax.checkpoint as ocp

        if self._manager is not None:
            return self._manager
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(self._keep)]
        measure = None
        if self._best is not None:
            measure = operator.itemgetter(self._best)
            kept.append(
                policies.BestN(
                    get_metric_fn=measure, n=1, keep_checkpoints_without_metrics=False
                )
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            # Without it no metric is written, and the best one forgotten in a resume.
            best_fn=measure,
            # What a killed save left behind is removed when the next run begins.
            cleanup_tmp_directories=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=options,
            item_names=("arrays", "digest"),
            item_handlers={
                "arrays": ocp.StandardCheckpointHandler(),
                "digest": ocp.JsonCheckpointHandler(),
            },
        )
        return self._manager

    def close(self) -> None:
        """Lets go of the directory; what comes next opens it again."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def steps(self) -> Sequence[int]:
        """Returns the steps of the checkpoints."""
        return self.open().all_steps()

    def reload(self) -> None:
        """Looks at the directory again, of which something was moved."""
        self.open().reload()

    def save(
        self,
        step: int,
        arrays: PyTree,
        digest: dict[str, int],
        metrics: dict[str, float] | None,
    ) -> None:
        """Begins to save; returns when the arrays may be changed again."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays), digest=ocp.args.JsonSave(digest)
        )
        self.open().save(step, metrics=metrics, args=items, force=True)

    def wait(self) -> None:
        """Waits for what is being saved."""
        self.open().wait_until_finished()
        _return_freed_memory()

    def digest(self, step: int) -> dict[str, int]:
        """Returns the digest that a checkpoint was saved with."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(digest=ocp.args.JsonRestore())
        return self.open().restore(step, args=items).digest

    def shapes(self, step: int) -> PyTree:
        """Returns shapes and dtypes of a checkpoint's arrays, in their containers."""
        return self.open().item_metadata(step)["arrays"].tree

    def arrays(self, step: int, target: PyTree) -> PyTree:
        """Returns a checkpoint's arrays with the shardings of ``target``."""
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
        return self.open().restore(step, args=items).arrays


def _return_freed_memory() -> None:
    # Each save compresses in new threads, and glibc keeps what they have freed for
    # them: 0.7 GB more after every save of a million examples' dynamics.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries lack it
    if trim is not None:
        trim(0)


def stored(checkpoint: Path) -> dict[str, Any]:
    """Returns shapes and dtypes of a checkpoint's arrays by name; changes nothing."""
    return leaves.by_name(_metadata(checkpoint))


def read(checkpoint: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns some of a checkpoint's arrays by name, on the host; changes nothing.

    Args:
      checkpoint: its directory, which may be read-only.
      names: as :func:`stored` gives them; the others are not read.
    """
    import orbax.checkpoint as ocp

    tree = _metadata(checkpoint)
    wanted = jax.tree_util.tree_map_with_path(
        lambda path, x: x if leaves.name(path) in names else ocp.PLACEHOLDER, tree
    )
    on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    args = ocp.args.PyTreeRestore(item=wanted, restore_args=on_host)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        found = leaves.by_name(checkpointer.restore(checkpoint / "arrays", args=args))
    return {name: found[name] for name in names}


def config_digest(checkpoint: Path) -> int:
    """Returns the digest of the configuration that a checkpoint was saved with."""
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return checkpointer.restore(checkpoint / "digest")["config"]


def _metadata(checkpoint: Path) -> PyTree:
    import orbax.checkpoint as ocp

    # Not by a Checkpointer, which warns that the arrays alone are no checkpoint of its
    # own. The handler declares paths of etils and takes any.
    handler: Any = ocp.PyTreeCheckpointHandler()
    return handler.metadata(checkpoint / "arrays").tree


def reason(error: Exception) -> str:
    """Returns why, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # Orbax's own errors are pages long and name the system's only by number.
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    line = (str(error).splitlines() or [""])[0].split(". See full")[0]
    return line[:200] or type(error).__name__
