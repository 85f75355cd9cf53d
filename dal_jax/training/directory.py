"""What a run of objects writes when it begins, and when it ends."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from dal_jax.training.fingerprint import Identity
from dal_jax.training.plan import Plan
from dal_jax.training.processes import is_main_process
from dal_jax.training.state import Predictions
from dal_jax.training.workdir import Workdir


def begin(
    files: Workdir, plan: Plan, identity: Identity, overwrite: bool, held: ExitStack
) -> bool:
    """Claims the directory for this run; returns whether it has finished before."""
    if not is_main_process():
        return False
    of_run = identity.values, identity.defaults
    files.check(*of_run, overwrite=overwrite)
    held.enter_context(files.locked())
    if not overwrite and files.read_summary() is not None:
        return True
    files.begin(*of_run, plan.record, overwrite=overwrite)
    if not (files.path / "preprocessing.json").exists():
        files.write_json("preprocessing.json", describe_inputs(plan))
    return False


def describe_inputs(plan: Plan) -> dict[str, Any]:
    """Returns what a prediction must know of a run's inputs, as JSON can hold it."""
    unchanged = {"size": None, "channels": None, "mean": [], "std": []}
    return {
        "class_names": list(plan.class_names),
        "input_shape": list(plan.train.input_shape),
        "input_dtype": str(plan.train.inputs.dtype),
        **unchanged,
        **plan.preprocess.description,
    }


def finish(
    files: Workdir,
    plan: Plan,
    summary: dict[str, Any],
    dynamics: dict[str, np.ndarray] | None,
    predictions: Predictions | None,
    say: Callable[[str], None],
) -> None:
    """Writes what was seen of the examples, the report, and at last the summary."""
    if not is_main_process():
        return
    if dynamics is not None:
        files.write_npz("dynamics.npz", dynamics | _names(plan))
    if predictions is not None:
        files.write_npz("predictions.npz", _predicted(plan, predictions))
    _report(files, plan, summary, say)
    # Last, for it says that the run has finished.
    files.write_summary(summary)


def _report(
    files: Workdir, plan: Plan, summary: dict[str, Any], say: Callable[[str], None]
) -> None:
    from dal_jax import report  # reads what the run has written, and draws it

    name = plan.reported_split
    try:
        report.write(
            files, summary=summary, inputs=None if name is None else plan.splits[name]
        )
    except Exception as error:
        # Whatever it is, the run is worth more than the page about it.
        reason = " ".join(str(error).split()) or type(error).__name__
        say(
            f"the report could not be written ({reason}); the run is not touched by "
            f"that: dal-jax report --workdir={files.path} tries again"
        )


def _predicted(plan: Plan, predictions: Predictions) -> dict[str, np.ndarray]:
    """Returns what is predicted of the reported split, beside its labels."""
    assert plan.reported_split is not None
    split = plan.splits[plan.reported_split]
    return {
        "split": np.array(plan.reported_split),
        "index": split.index,
        "label": split.labels,
        "predicted": np.asarray(predictions.predicted),
        "probability": np.asarray(predictions.probability),
    }


def _names(plan: Plan) -> dict[str, np.ndarray]:
    """Returns the names of the training examples, where they have some, as bytes."""
    names = plan.train.names
    if names is None:
        return {}
    return {"names": np.array([os.fsencode(name) for name in names])}
