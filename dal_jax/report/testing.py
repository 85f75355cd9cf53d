"""What the page says of the examples that a run did not train on."""

from pathlib import Path
from typing import Any

import numpy as np

from dal_jax import data
from dal_jax.data import Split
from dal_jax.data.contents import contents_of, places_of
from dal_jax.errors import InputError
from dal_jax.report.run import Predicted, ReportedRun
from dal_jax.reporting.report import Matrix, Mistake, Mistakes, Table, Text

_MOST_CLASSES = 100
_MOST_MISTAKES = 24
# The matrix of more classes than this takes too much memory.
_MOST_DENSE = 4000


def title(run: ReportedRun) -> str:
    """Returns the section's heading."""
    seen = run.predicted
    return "Test set" if seen is None or seen.split == "test" else "Validation examples"


def blocks(run: ReportedRun) -> list[Any]:
    """Returns confusion matrix and accuracy by class."""
    seen = run.predicted
    if seen is None:
        return [Text(_why_nothing(run))]
    of_labels = "" if seen.split == "test" else _NOISY
    confusion = _confusion(seen, len(run.class_names))
    drawn: list[Any] = [
        Text(
            f"{int((~seen.correct).sum()):,} of {len(seen.label):,} examples are "
            f"predicted as another class than their label. {of_labels}"
        )
    ]
    if confusion is not None:
        totals = confusion.sum(axis=1, keepdims=True)
        shares = np.full(confusion.shape, np.nan)
        np.divide(confusion, totals, out=shares, where=totals > 0)
        drawn.append(
            Matrix(
                "Confusion matrix",
                "Of the examples with the label of a row, the percentage that is "
                "predicted as the class of each column.",
                shares,
                run.class_names,
                "label",
                "predicted",
            )
        )
    return [*drawn, _by_class(run, seen)]


_NOISY = "These labels may be wrong themselves: they were held out of the training set."


def _why_nothing(run: ReportedRun) -> str:
    if run.state != "finished":
        return "The predictions of single examples are written when a run ends."
    if not {"test_accuracy", "validation_accuracy"} & run.last.keys():
        return (
            "The run had neither a test set nor validation examples. Give it a test "
            "set, or hold some out with dataset.validation_fraction."
        )
    return (
        "This run has no predictions.npz: an earlier version did not keep what is "
        "predicted of single examples, or they have several labels each."
    )


def _confusion(seen: Predicted, num_classes: int) -> np.ndarray | None:
    if num_classes > _MOST_DENSE:
        return None
    pairs = seen.label.astype(np.int64) * num_classes + seen.predicted
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def _by_class(run: ReportedRun, seen: Predicted) -> Table:
    """Returns a row a class, the lowest accuracy first."""
    num_classes = len(run.class_names)
    size = np.bincount(seen.label, minlength=num_classes)
    right = np.bincount(seen.label[seen.correct], minlength=num_classes)
    predicted = np.bincount(seen.predicted, minlength=num_classes)
    accuracy = right / np.maximum(size, 1)
    order = [k for k in np.argsort(accuracy, kind="stable").tolist() if size[k]]
    rows = [
        [
            run.class_names[k],
            int(size[k]),
            float(accuracy[k]),
            int(predicted[k]),
            _mostly(run, seen, k),
        ]
        for k in order[:_MOST_CLASSES]
    ]
    name = "Accuracy by class, the lowest first"
    if len(order) > _MOST_CLASSES:
        name += f", {_MOST_CLASSES} of {len(order)}"
    return Table(
        name,
        ["Class", "Examples", "Accuracy", "Predicted", "Mostly taken for (times)"],
        rows,
        folded=len(order) > 20,
    )


def _mostly(run: ReportedRun, seen: Predicted, k: int) -> str:
    of_class = seen.predicted[(seen.label == k) & ~seen.correct]
    if not len(of_class):
        return "–"
    counts = np.bincount(of_class)
    return f"{run.class_names[int(counts.argmax())]} ({counts.max()})"


def mistakes(run: ReportedRun, inputs: Split | None) -> list[Any]:
    """Returns the mistakes of which the network was most sure, with their inputs."""
    seen = run.predicted
    if seen is None:
        return [Text("They are shown where the section above has something to show.")]
    wrong = np.flatnonzero(~seen.correct)
    if not len(wrong):
        return [Text("There is none.")]
    sure = np.nan_to_num(seen.probability[wrong])
    chosen = wrong[np.argsort(-sure, kind="stable")[:_MOST_MISTAKES]]
    source, places, remark = _inputs(run, seen, chosen, inputs)
    contents = [None] * len(chosen) if source is None else contents_of(source, places)
    names = None if source is None else source.names
    cards = [
        Mistake(
            label=run.class_names[int(seen.label[i])],
            predicted=run.class_names[int(seen.predicted[i])],
            probability=float(seen.probability[i]),
            name=f"index {seen.index[i]}"
            if names is None
            else "/".join(Path(str(names[place])).parts[-2:]),
            content=content,
        )
        for i, place, content in zip(chosen.tolist(), places, contents, strict=True)
    ]
    sentence = (
        f"The {len(cards)} of which the network was most sure. "
        if len(cards) > 1
        else ""
    )
    sentence += (
        "Look whether the label is right: a test set has wrong labels too."
        if seen.split == "test"
        else _NOISY
    )
    return [Text(f"{sentence} {remark}".strip()), Mistakes(cards)]


def _inputs(
    run: ReportedRun, seen: Predicted, chosen: np.ndarray, inputs: Split | None
) -> tuple[Split | None, np.ndarray, str]:
    """Returns where the inputs of some examples are, and a remark if nowhere."""
    if inputs is not None:
        return inputs, chosen, ""
    if run.config is None:
        return (
            None,
            chosen,
            (
                "Their inputs are not shown: the run was trained on arrays that a "
                "program held."
            ),
        )
    try:
        dataset = data.listed(run.config.dataset)
    except (InputError, OSError) as error:
        return None, chosen, f"Their inputs are not shown: {error}."
    source = dataset.test if seen.split == "test" else dataset.train
    if source is None:
        return None, chosen, "Their inputs are not shown: there is no test set now."
    places, found = places_of(source.index, seen.index[chosen])
    same = found & (source.labels[places] == seen.label[chosen])
    if not (same if seen.split == "test" else found).all():
        return None, chosen, "Their inputs are not shown: the data set has changed."
    return source, places, ""
