"""A configuration trained: the recipe, and :func:`dal_jax.training.fit`."""

import os
from collections.abc import Callable
from typing import Any

from dal_jax import networks, recipe
from dal_jax.config import TrainConfig, config_of
from dal_jax.data import Dataset
from dal_jax.training import events, shelf
from dal_jax.training.fit import STOPPED_EARLY, fit
from dal_jax.training.processes import agree, is_main_process, refuse_together
from dal_jax.training.stopping import Stop
from dal_jax.training.workdir import Workdir


def train_and_evaluate(
    config: TrainConfig,
    workdir: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    stop: Stop | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = False,
    profile: bool = False,
    tensorboard: bool = False,
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """Trains as configured, or goes on where the same run stopped.

    Args:
      config: what to train, on what, how.
      workdir: where ``config.json``, ``noise.npz``, ``metrics.jsonl``,
        ``checkpoints/`` and at the end ``summary.json`` are written.
      overwrite: remove what an earlier run left there, and start anew.
      stop: what asks the run to stop, see :func:`dal_jax.training.fit`.
      say: told in single lines what a person would want to know.
      progress: show a progress bar on standard error.
      profile: write a JAX profile of the second epoch to ``workdir/profile``.
      tensorboard: write event files to ``workdir/tensorboard``.
      dataset: what ``config.dataset`` names, where several runs load it once.

    Returns:
      The summary, as in ``summary.json``; ``{}`` where ``num_epochs`` is 0.

    Raises:
      InputError: a wrong configuration, before anything is written.
      NonFiniteError: the loss or its gradient was not finite.
      StorageError: the run could not be written, as on a full disk.
      Interrupted: ``stop`` asked for it; the run is saved and can go on.
    """
    files = Workdir(workdir)
    # Said once all is checked, for a refusal is a line of its own.
    notes: list[str] = []

    def checked() -> tuple[TrainConfig, bool]:
        recipe.check(config)
        # Its parameters come from a checkpoint, and the file of weights may be gone.
        begun = None if overwrite or config.model.weights is None else _begun(files)
        return networks.filled_in(config, begun, notes.append), begun is None

    config, begins = refuse_together(checked)
    identity = recipe.identity_of(config)

    def finished_before() -> bool:
        if tensorboard:
            events.require()
        if not is_main_process():
            return False
        files.check(identity.values, identity.defaults, overwrite=overwrite)
        return not overwrite and files.read_summary() is not None

    if agree(refuse_together(finished_before)):
        say(f"already finished; nothing changed in {files.path}")
        return files.read_summary() or {}
    stop = stop or Stop()
    with stop.at_once(STOPPED_EARLY):
        prepared = refuse_together(lambda: recipe.prepare(config, dataset))
        objects = refuse_together(
            lambda: recipe.ingredients(config, prepared, read_weights=begins)
        )
    if prepared.skipped:
        named = ", ".join(prepared.skipped[:3])
        notes.append(
            f"left out {len(prepared.skipped)} images that do not decode: {named}"
        )
    result = fit(
        **objects,
        workdir=workdir,
        identity=identity,
        overwrite=overwrite,
        stop=stop,
        say=say,
        notes=(*notes, *prepared.notes),
        progress=progress,
        profile=profile,
        tensorboard=tensorboard,
    )
    if config.num_epochs == 0:
        say(f"prepared, not trained: see {files.noise}")
    return result.summary


def _begun(files: Workdir) -> TrainConfig | None:
    """Returns the configuration of the run that has a checkpoint there, if any."""
    if files.mark.has_checkpoints or shelf.newest(files.checkpoints) >= 0:
        return config_of(files.read_json("config.json"))
    return None
