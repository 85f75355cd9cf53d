"""The page of a run: its sections, from what the directory holds."""

import math
from typing import Any

import numpy as np

from dal_jax.data import Split
from dal_jax.report import curves, labels, setup, testing
from dal_jax.report.advice import advise
from dal_jax.report.run import ReportedRun, read
from dal_jax.reporting.report import Fact, Report, Section, render
from dal_jax.training.storing import storing

PAGE = "report.html"


def write(
    workdir: Any,
    *,
    summary: dict[str, Any] | None = None,
    inputs: Split | None = None,
) -> ReportedRun:
    """Writes ``report.html`` into a run's directory, whole or not at all.

    Args:
      workdir: the directory.
      summary: of a run that ends this moment and has not written it yet.
      inputs: the split whose predictions the run keeps, if it is at hand; otherwise
        its examples are looked up where the configuration says.

    Returns:
      The run.

    Raises:
      InputError: there is no run, or a file of it is damaged, or somebody else's.
      StorageError: the page could not be written.
    """
    run = read(workdir, summary=summary)
    with storing(run.files.path):
        run.files.mark.claim(adopt=True)
    run.files.refuse_strangers(PAGE)
    page = render(make(run, inputs)).encode("utf-8", "replace")
    run.files.write(PAGE, lambda file: file.write(page))
    return run


def make(run: ReportedRun, inputs: Split | None = None) -> Report:
    """Returns what the page says."""
    return Report(
        title=str(run.files.path),
        heading=_heading(run),
        facts=_facts(run),
        remarks=advise(run),
        sections=[
            Section("curves", "Learning curves", curves.blocks(run)),
            Section("wrong-labels", "What became of the labels", labels.fate(run)),
            Section("spread", "How sure the network was", labels.spread(run)),
            Section("noise", "The training labels", labels.noise(run)),
            Section("test", testing.title(run), testing.blocks(run)),
            Section(
                "mistakes", "Most confident mistakes", testing.mistakes(run, inputs)
            ),
            Section("setup", "How it was trained", setup.blocks(run)),
        ],
    )


def _heading(run: ReportedRun) -> str:
    for split, name in (("test", "test"), ("validation", "noisy validation")):
        accuracy = run.last.get(f"{split}_accuracy")
        if accuracy is not None:
            return f"{100 * accuracy:.1f} % {name} accuracy after {_epochs(run)}"
    return f"Trained for {_epochs(run)}" if run.entries else "Nothing was evaluated yet"


def _epochs(run: ReportedRun) -> str:
    return f"{run.last['epoch']} epoch{'s' if run.last['epoch'] > 1 else ''}"


def _facts(run: ReportedRun) -> list[Fact]:
    facts = []
    for split, name in (("test", "Test"), ("validation", "Noisy validation")):
        curve = run.curve(f"{split}_accuracy")
        if np.isfinite(curve).any():
            facts += [
                Fact(f"{name} accuracy", _percent(curve[-1]), _interval(run, split)),
                Fact("  mean of the last ten", _percent(float(np.mean(curve[-10:])))),
            ]
    record = run.record
    if record is not None:
        wrong = record.realised_rate
        known = not math.isnan(wrong)
        facts.append(Fact("Labels wrong", _percent(wrong) if known else "unknown"))
    for name in ("memorized", "corrected"):
        if run.last.get(name) is not None:
            facts.append(Fact(f"  of them {name}", _percent(run.last[name])))
    if run.entries:
        facts.append(Fact("Time", _time(run.last["elapsed_seconds"])))
    return facts


def _interval(run: ReportedRun, split: str) -> str:
    """Returns Wilson's 95 % interval of the last accuracy, where examples are known."""
    seen = run.predicted
    if seen is None or seen.split != split or not len(seen.label):
        return ""
    n, p, z = len(seen.label), float(seen.correct.mean()), 1.96
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = 100 * (centre - half), 100 * (centre + half)
    return f"{low:.1f} to {high:.1f} % with 95 % confidence, {n:,} examples"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
