"""Checkpoints through Orbax: atomic, asynchronous, verified when they are read.

Beside the arrays each checkpoint holds their digest and that of the configuration. One
that does not restore, or has other digests, is moved aside and the newest whole one
before it is taken.
"""

import gc
import shutil
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dal_jax.training.processes import any_process, barrier, is_main_process
from dal_jax.training.workdir import storing

PyTree = Any


class Checkpoints:
    """The checkpoints of one run: the newest few and the best by a metric."""

    def __init__(
        self, directory: Path, keep: int, config_digest: int, best: str | None = None
    ):
        """Opens the directory, which is made if need be.

        Args:
          directory: absolute.
          keep: how many of the newest are kept.
          config_digest: of the run's configuration.
          best: a metric given to :meth:`save` by which the best one is kept as well.
        """
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self._directory = directory
        from dal_jax.training.workdir import config_digest as cd; self._config_digest = cd(config_digest.values)
        policies = ocp.checkpoint_managers
        kept: list[Any] = [policies.LatestN(keep)]
        if best is not None:
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(kept),
            # What a killed save left behind is removed when the next run begins.
            cleanup_tmp_directories=True,
        )
        self._manager = self._open()
        self._hooks = threading.excepthook, sys.excepthook, sys.unraisablehook
        threading.excepthook = self._thread_failed
        sys.excepthook = self._callback_failed
        sys.unraisablehook = self._reader_dropped

    def _open(self) -> Any:
        return self._ocp.CheckpointManager(
            self._directory, options=self._options, item_names=("arrays", "digest")
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, arrays: PyTree, metrics: dict[str, float] | None = None
    ) -> None:
        """Begins to save; returns when the arrays may be changed again."""
        args = self._ocp.args
        with storing(self._directory):
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                metrics=metrics,
                args=args.Composite(
                    arrays=args.StandardSave(arrays),
                    digest=args.JsonSave(self._digests(arrays)),
                ),
                force=True,
            )

    def restore(
        self, abstract: PyTree, say: Callable[[str], None]
    ) -> tuple[int, PyTree] | None:
        """Returns the newest whole checkpoint's step and arrays, or None.

        Args:
          abstract: shapes, dtypes and shardings that the arrays must have.
          say: told, a line each, which checkpoints are damaged.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            arrays, reason = None, "another process could not read it"
            try:
                arrays = self._restore_step(step, abstract)
            except Exception as error:
                # Whatever a damaged file makes a reader raise: the run goes back.
                line = (str(error).splitlines() or [""])[0].split(". See full")[0]
                reason = line[:120] or type(error).__name__
            if not any_process(arrays is None):
                return step, arrays
            say(f"checkpoint {step} is damaged ({reason}); going back further")
            gc.collect()  # now, while what its readers leave behind is expected
            self._set_aside(step)
            if not self._manager.all_steps():
                say("no checkpoint is whole: beginning again")
        return None

    def wait(self) -> None:
        """Waits for what is being saved."""
        with storing(self._directory):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being saved and lets go of the directory."""
        with storing(self._directory):
            self._manager.wait_until_finished()
            self._manager.close()
        # After a failure they stay, for what failed goes on complaining.
        threading.excepthook, sys.excepthook, sys.unraisablehook = self._hooks

    # What Orbax raises outside of a call comes back from the next save or from close,
    # or came from restore: it is not to be told twice, and not in its own words.

    def _thread_failed(self, failure: Any) -> None:
        if not type(failure.thread).__module__.startswith("orbax."):
            self._hooks[0](failure)

    def _callback_failed(self, *failure: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._hooks[1](*failure)

    def _reader_dropped(self, failure: Any) -> None:
        code = getattr(failure.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        # The last callback of a read or write that failed finds its loop gone.
        late = str(failure.exc_value) == "Event loop is closed"
        if not (of_orbax or late):
            self._hooks[2](failure)

    def _restore_step(self, step: int, abstract: PyTree) -> PyTree:
        args = self._ocp.args
        restored = self._manager.restore(
            step,
            args=args.Composite(
                arrays=args.StandardRestore(abstract), digest=args.JsonRestore()
            ),
        )
        digests = self._digests(restored.arrays)
        if restored.digest["config"] != digests["config"]:
            raise ValueError("it is of a run with another configuration")
        if restored.digest["arrays"] != digests["arrays"]:
            raise ValueError("its arrays are not those that were saved")
        return restored.arrays

    def _digests(self, arrays: PyTree) -> dict[str, int]:
        return {"arrays": _digest(arrays), "config": self._config_digest}

    def _set_aside(self, step: int) -> None:
        self._manager.close()
        if is_main_process():
            aside = self._directory.with_name("damaged_checkpoints")
            aside.mkdir(exist_ok=True)
            taken = sum(1 for _ in aside.iterdir())
            shutil.move(self._directory / str(step), aside / f"{step}_{taken}")
        barrier(f"checkpoint {step} set aside")
        self._manager = self._open()


def _digest(arrays: PyTree) -> int:
    crc = 0
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, jax.Array):
            if not leaf.is_fully_replicated:
                continue  # with several processes none holds the whole array
            leaf = leaf.addressable_data(0)
        crc = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, crc)
    return crc
