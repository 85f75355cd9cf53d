"""What the page draws over the epochs: the lines of ``metrics.jsonl``."""

from typing import Any

import numpy as np

from dal_jax.report.run import ReportedRun
from dal_jax.reporting.charts import Chart, Line
from dal_jax.reporting.report import Charts, Text

# Numbers of an evaluation that are not the loss's schedule.
_KNOWN = {
    "epoch",
    "step",
    "learning_rate",
    "train_loss",
    "skipped_steps",
    "train_accuracy",
    "validation_accuracy",
    "test_accuracy",
    "memorized",
    "corrected",
    "fitted",
    "images_per_second",
    "elapsed_seconds",
}
_CHANGES = (
    "The loss changes with the step: its early and its late values are not of the same "
    "function."
)
_STYLES = ("right", "wrong", "third", "other")


def blocks(run: ReportedRun) -> list[Any]:
    """Returns accuracy, loss and schedules over the epochs."""
    if not run.entries:
        return [Text("Nothing was evaluated yet: metrics.jsonl has no line.")]
    accuracy = [
        Line(name, run.curve(f"{split}_accuracy"), style)
        for split, name, style in (
            ("test", "test", "right"),
            ("validation", "validation (noisy labels)", "third"),
            ("train", "training (given labels)", "other"),
        )
    ]
    coefficients = sorted(
        {name for entry in run.entries for name in entry} - _KNOWN,
        key=lambda name: (name != "q", name),
    )
    schedule = [
        Line(name.replace("_", " "), run.curve(name), style)
        for name, style in zip(coefficients, _STYLES, strict=False)
    ]
    charts = [
        chart(run, "Accuracy", accuracy),
        chart(
            run,
            "Loss on the training examples",
            [Line("mean loss", run.curve("train_loss"), "right")],
            percent=False,
            note=_CHANGES if coefficients else "",
        ),
        chart(run, "The loss's schedule", schedule, percent=False),
        chart(
            run,
            "Learning rate",
            [Line("learning rate", run.curve("learning_rate"), "other")],
            percent=False,
        ),
    ]
    return [Charts([each for each in charts if each is not None])]


def chart(
    run: ReportedRun,
    title: str,
    lines: list[Line],
    *,
    percent: bool = True,
    note: str = "",
) -> Chart | None:
    """Returns lines over the run's epochs; ``None`` where none has a value."""
    lines = [line for line in lines if np.isfinite(line.values).any()]
    if not lines:
        return None
    crossing = run.q_passes_1
    return Chart(
        title=title,
        lines=lines,
        epochs=run.curve("epoch"),
        last_epoch=float(
            run.last["epoch"]
            if run.state == "finished"
            else run.option.get("num_epochs", run.last["epoch"])
        ),
        percent=percent,
        marker=None if crossing is None else (crossing, "q = 1"),
        note=note,
    )
