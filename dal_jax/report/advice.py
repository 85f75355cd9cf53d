"""What a person would remark on a run, each with what to do about it."""

from collections.abc import Callable, Iterator

import numpy as np

from dal_jax.report.run import ReportedRun
from dal_jax.reporting.report import Remark

# Differences of accuracy that are worth a remark, beyond what the curve wavers by.
_RISE, _FALL, _GAP = 0.01, 0.03, 0.1
# Of the training labels, how many the network hardly believes before one looks.
_HARDLY, _MANY = 0.05, 0.02


def advise(run: ReportedRun) -> list[Remark]:
    """Returns the remarks, those on the whole run first."""
    return [remark for check in _CHECKS for remark in check(run)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _unfinished(run: ReportedRun) -> Iterator[Remark]:
    if run.state == "finished" or not run.option.get("num_epochs"):
        return
    done, of = run.last.get("epoch", 0), run.option["num_epochs"]
    if run.state == "running":
        yield Remark(
            f"The run is in progress, epoch {done} of {of} is done.",
            "The page shows what there was when it was made; make it again later.",
        )
    else:
        yield Remark(
            f"The run stopped after epoch {done} of {of}.",
            "The same command that began it goes on from its newest checkpoint.",
        )


def _skipped(run: ReportedRun) -> Iterator[Remark]:
    skipped = int(np.nansum(run.curve("skipped_steps")))
    if skipped:
        yield Remark(
            f"{skipped:,} steps were skipped, because their loss or gradient was not "
            "finite.",
            "Lower optimizer.learning_rate, or clip the gradient with "
            "optimizer.clip_norm=5.",
        )


def _by_chance(run: ReportedRun) -> Iterator[Remark]:
    seen = run.predicted
    if seen is None or not len(seen.label):
        return
    # The class that is most frequent is right so often, whatever the input.
    chance = np.bincount(seen.label).max() / len(seen.label)
    accuracy = float(seen.correct.mean())
    spread = 2 * np.sqrt(chance * (1 - chance) / len(seen.label))
    if accuracy <= chance + spread:
        yield Remark(
            f"Accuracy on the {seen.split} examples is {_percent(accuracy)}, no better "
            f"than always naming their most frequent class ({_percent(chance)}).",
            "Nothing was learnt: check that inputs and labels belong together, then "
            "the learning rate, and try the loss ce first.",
        )


def _never_predicted(run: ReportedRun) -> Iterator[Remark]:
    seen = run.predicted
    if seen is None or list(_by_chance(run)):
        return
    missing = np.setdiff1d(seen.label, seen.predicted)
    if len(missing):
        named = ", ".join(str(run.class_names[k]) for k in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        yield Remark(
            f"Never predicted on the {seen.split} examples: {named}{more}.",
            "A robust loss may give a class up early: let it fit more at first (for "
            "dal a lower loss.q_start). Or check in the matrix of the labels whether "
            "most of theirs are wrong.",
        )


def _outvoted(run: ReportedRun) -> Iterator[Remark]:
    if run.record is None or run.mislabelled is None:
        return
    matrix = run.record.transition_matrix
    if matrix is None:  # too many classes
        return
    matrix = np.nan_to_num(matrix)
    lost = np.flatnonzero(matrix.max(axis=1) > np.diag(matrix))
    if len(lost):
        named = ", ".join(str(run.class_names[k]) for k in lost[:5])
        more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
        yield Remark(
            f"More examples are labelled as one other class than rightly: {named}{more}"
            ".",
            "No loss can tell which of the two is meant. Correct some of these labels "
            "by hand; dal-jax audit lists where to begin.",
        )


def _doubted(run: ReportedRun) -> Iterator[Remark]:
    history = run.history
    if history is None or run.record is None or run.record.clean_labels is not None:
        return
    seen = history[:, : int(np.max(np.flatnonzero(history.any(axis=0)), initial=0)) + 1]
    doubted = float(np.mean(seen[:, -1] < 255 * _HARDLY))
    if doubted > _MANY:
        yield Remark(
            f"At the end the network gives {_percent(doubted)} of the training labels "
            f"a probability below {100 * _HARDLY:g} %.",
            "Many of these are likely wrong: dal-jax audit lists them, the most "
            "suspicious first, and writes better labels to train on.",
        )


def _memorized(run: ReportedRun) -> Iterator[Remark]:
    memorized, corrected = run.last.get("memorized"), run.last.get("corrected")
    if memorized is not None and corrected is not None and memorized > corrected:
        yield Remark(
            f"At the end {_percent(memorized)} of the wrong labels are predicted as "
            f"they were given, and {_percent(corrected)} as what they truly are.",
            "The network has memorized them: take a more robust loss (dal, or for dal "
            "a larger loss.q_end), or fewer epochs.",
        )


def _fallen(run: ReportedRun) -> Iterator[Remark]:
    name, curve, epochs = _watched(run)
    if len(curve) < 3:
        return
    best = int(np.argmax(curve))
    # The best of the last three, for one bad evaluation is no fall.
    if curve[best] - curve[-3:].max() > _FALL + 2 * _wavering(curve):
        yield Remark(
            f"{name} accuracy was {_percent(curve[best])} at epoch {epochs[best]:.0f} "
            f"and has fallen to {_percent(curve[-1])}.",
            "Usually the network has begun to memorize wrong labels: take a more "
            "robust loss, or fewer epochs. dal_jax.load(workdir, 'best') is the "
            "checkpoint that did best on validation examples, if one was kept.",
        )


def _rising(run: ReportedRun) -> Iterator[Remark]:
    name, curve, _ = _watched(run)
    if len(curve) < 8:
        return
    part = max(len(curve) // 5, 3)
    rise = float(curve[-part:].mean() - curve[-2 * part : -part].mean())
    if rise > _RISE and rise > 2 * _wavering(curve) / np.sqrt(part):
        remark = f"{name} accuracy still rises at the end, by {_percent(rise)} "
        yield Remark(
            f"{remark}from one fifth of the run to the next.",
            "Train longer (num_epochs). Decide that by validation examples "
            "(dataset.validation_fraction), not by the test set.",
        )


def _apart(run: ReportedRun) -> Iterator[Remark]:
    train = run.last.get("train_accuracy")
    validation = run.last.get("validation_accuracy")
    if train is None or validation is None or train - validation <= _GAP:
        return
    yield Remark(
        f"Given labels are predicted for {_percent(train)} of the training examples "
        f"and for {_percent(validation)} of the validation examples.",
        "So far apart they are when a network has learnt its training set by heart, "
        "wrong labels included: more augmentation, weight decay, or a more robust "
        "loss.",
    )


def _watched(run: ReportedRun) -> tuple[str, np.ndarray, np.ndarray]:
    """Returns the curve to judge a run by: name, values and epochs."""
    for name in ("validation", "test"):
        curve = run.curve(f"{name}_accuracy")
        known = np.isfinite(curve)
        if known.any():
            return name.capitalize(), curve[known], run.curve("epoch")[known]
    return "", np.zeros(0), np.zeros(0)


def _wavering(curve: np.ndarray) -> float:
    """The deviation from one evaluation to the next in the second half, without drift.

    Of independent deviations around a smooth curve, that of a difference is the root
    of 2 larger.
    """
    steps = np.diff(curve[len(curve) // 2 :])
    return float(np.std(steps) / np.sqrt(2)) if len(steps) > 1 else 0.0


_CHECKS: tuple[Callable[[ReportedRun], Iterator[Remark]], ...] = (
    _unfinished,
    _skipped,
    _by_chance,
    _never_predicted,
    _outvoted,
    _doubted,
    _memorized,
    _fallen,
    _rising,
    _apart,
)
