"""What the page says of the training labels, and of what became of them."""

from typing import Any

import numpy as np

from dal_jax.command_line import quoted
from dal_jax.report.curves import chart
from dal_jax.report.run import ReportedRun
from dal_jax.reporting.charts import Histogram, Line
from dal_jax.reporting.report import (
    Charts,
    Command,
    Histograms,
    Matrix,
    Table,
    Text,
)
from dal_jax.training.dynamics import epochs_per_column

_BINS = 20
# A table of more classes than this is no longer read.
_MOST_CLASSES = 100
_AUDIT = "label_issues.html"


def noise(run: ReportedRun) -> list[Any]:
    """Returns what is known of the noise, by class."""
    record = run.record
    if record is None:
        return [Text("Its directory has no noise.npz, so nothing is known of them.")]
    options = ", ".join(f"{k} {v}" for k, v in record.options.items() if v is not None)
    kind = f"Kind of noise: {record.kind}{f' ({options})' if options else ''}."
    if record.nominal_rate > 0:
        kind += f" A rate of {100 * record.nominal_rate:g} % was asked for."
    blocks: list[Any] = [Text(kind)]
    if record.clean_labels is None:
        return [*blocks, *_unknown(run), _sizes(run)]
    wrong = int((record.noisy_labels != record.clean_labels).sum())
    of = record.noisy_labels.size
    blocks.append(
        Text(
            f"{wrong:,} of {of:,} training labels are wrong, "
            f"{100 * record.realised_rate:.1f} %. Training saw no clean label."
        )
    )
    if wrong and record.transition_matrix is not None:
        blocks.append(
            Matrix(
                "Given labels by true class",
                "Of the examples that truly are of the class of a row, the percentage "
                "that is labelled as the class of each column.",
                record.transition_matrix,
                run.class_names,
                "true",
                "given",
            )
        )
    return [*blocks, _sizes(run)]


def _unknown(run: ReportedRun) -> list[Any]:
    """Returns what to say where no clean label is known: the way to the audit."""
    sentence = (
        "The clean labels are unknown, so it is unknown which of these labels are "
        "wrong. The audit estimates it from what was seen of every example in training."
    )
    if (run.files.path / _AUDIT).exists():
        return [Text(f"{sentence}", (_AUDIT, "See the audit of this run"))]
    if run.state != "finished":
        return [Text(f"{sentence} It needs a finished run.")]
    command = quoted(["dal-jax", "audit", f"--workdir={run.files.path}"])
    return [Command(f"{sentence} This makes it:", command)]


def _sizes(run: ReportedRun) -> Table:
    record = run.record
    assert record is not None
    num_classes = record.num_classes

    def count(labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels[labels >= 0].ravel(), minlength=num_classes)

    given = count(record.noisy_labels)
    headings, columns = ["Class", "Labelled so"], [given]
    order = np.argsort(-given, kind="stable")
    if record.clean_labels is not None:
        wrong = record.noisy_labels != record.clean_labels
        mistaken = count(np.where(wrong, record.noisy_labels, -1))
        columns += [mistaken, mistaken / np.maximum(given, 1)]
        columns += [count(record.clean_labels)]
        headings += ["wrongly", "share", "Truly of it"]
        order = np.argsort(-columns[2], kind="stable")
    title = "Labels by class"
    if len(order) > _MOST_CLASSES:
        title += f", the first {_MOST_CLASSES} of {len(order)}"
    rows: list[Any] = [
        [run.class_names[k], *(column[k].item() for column in columns)]
        for k in order[:_MOST_CLASSES].tolist()
    ]
    return Table(
        title,
        headings,
        rows,
        folded=len(order) > 20,
    )


def fate(run: ReportedRun) -> list[Any]:
    """Returns what the network predicts for wrong and for right labels, over time."""
    if not run.entries:
        return [Text("Nothing was evaluated yet.")]
    memorized, corrected = run.curve("memorized"), run.curve("corrected")
    if not np.isfinite(memorized).any():
        return [Text(_why_no_fate(run))]
    charts = [
        chart(
            run,
            "Training examples with a wrong label, predicted as",
            [
                Line("the wrong label given (memorized)", memorized, "wrong"),
                Line("their true class (corrected)", corrected, "right"),
                Line("another class", 1 - memorized - corrected, "other"),
            ],
        ),
        chart(
            run,
            "Training examples with a right label, predicted as",
            [Line("their label", run.curve("fitted"), "right")],
        ),
    ]
    blocks: list[Any] = [Charts([each for each in charts if each is not None])]
    if charts[1] is None:
        blocks.append(
            Text(
                "What became of the right labels is not known: an earlier version did "
                "not count it."
            )
        )
    return blocks


def _why_no_fate(run: ReportedRun) -> str:
    if run.option.get("train_eval_size") == 0:
        return (
            "No training example is evaluated in this run (train_eval_size=0), so this "
            "is not known."
        )
    if run.record is not None and run.record.clean_labels is not None:
        return "No training label is known to be wrong."
    return (
        "Which labels are wrong is not known, so neither is what became of them. The "
        "next section shows what can be seen without that."
    )


def spread(run: ReportedRun) -> list[Any]:
    """Returns how the given label's probability is spread early, midway and late."""
    history = run.history
    if history is None:
        return [
            Text(
                "What was seen of every example (dynamics.npz) is written when a run "
                "ends."
                if run.state != "finished"
                else "This run has no dynamics.npz: an earlier version did not gather "
                "what is seen of every example, or examples have several labels each."
            )
        ]
    wrong = run.mislabelled
    groups = [("All examples", np.ones(len(history), bool), "right")]
    if wrong is not None:
        groups = [
            ("Right labels", ~wrong, "right"),
            ("Wrong labels", wrong, "wrong"),
        ]
    sentence = (
        "The probability that the network gave to the label it was trained on, when "
        "it last had each example in a batch. "
    )
    if wrong is None:
        sentence += (
            "Examples that stay on the left while others move to the right are those "
            "whose label the network doubts; dal-jax audit lists them."
        )
    else:
        sentence += (
            "Where both stand apart, the wrong labels can be told; where wrong labels "
            "move to the right too, they are being memorized."
        )
    return [
        Text(sentence),
        Histograms(
            [
                Histogram(
                    title,
                    [
                        (name, _counts(history[chosen, column]), style)
                        for name, chosen, style in groups
                    ],
                )
                for column, title in _moments(run, history)
            ]
        ),
    ]


def _moments(run: ReportedRun, history: np.ndarray) -> list[tuple[int, str]]:
    """Returns columns of the history to show, and what to call them."""
    each = epochs_per_column(run.option.get("num_epochs", history.shape[1]))
    # A run that was ended early has nothing in its last columns.
    last = min((run.last.get("epoch", 1) - 1) // each, history.shape[1] - 1)
    crossing = run.q_passes_1
    halfway = last // 2 if crossing is None else min(int(crossing // each), last)
    names = {0: "", halfway: ", q = 1" if crossing is not None else "", last: ""}

    def epochs(column: int) -> str:
        first, final = column * each + 1, (column + 1) * each
        return f"Epoch {first}" if each == 1 else f"Epochs {first} to {final}"

    return [(c, f"{epochs(c)}{names[c]}") for c in sorted(names)]


def _counts(levels: np.ndarray) -> np.ndarray:
    """Returns how many 255ths fall into each of equal parts of [0, 1]."""
    bins = np.minimum(levels.astype(np.int64) * _BINS // 255, _BINS - 1)
    return np.bincount(bins, minlength=_BINS)
