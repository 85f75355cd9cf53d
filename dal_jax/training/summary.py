"""Figures of a run: ratios of sums, the summary, and the lines that show them."""

from typing import Any

import jax
import numpy as np

from dal_jax.noise import NoiseRecord
from dal_jax.training.state import EvalSums


def accuracies(sums: dict[str, EvalSums]) -> dict[str, float | None]:
    """Returns an evaluation's figures from its sums.

    ``train_accuracy`` and ``validation_accuracy`` are measured against the given,
    noisy labels; ``memorized`` and ``corrected`` are shares of the training examples
    that are known to be mislabelled, ``fitted`` is the share of all others that are
    predicted as their label; ``None`` where none is known to be mislabelled.
    """
    figures = {
        f"{name}_accuracy": share(of.correct, of.count) for name, of in sums.items()
    }
    if "train" not in sums:
        return figures
    train = sums["train"]
    others = train.count - train.mislabelled if train.mislabelled else 0
    return figures | {
        "memorized": share(train.memorized, train.mislabelled),
        "corrected": share(train.corrected, train.mislabelled),
        "fitted": share(train.correct - train.memorized, others),
    }


def summarize(
    loss_name: str, record: NoiseRecord, entries: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the summary of a run, ``{}`` where nothing was evaluated.

    Accuracy is that of the last epoch, with the mean of the last ten evaluations and,
    for reference, the best one, which nothing was chosen by.
    """
    if not entries:
        return {}
    last = entries[-1]
    figures: dict[str, Any] = {
        "loss": loss_name,
        "noise_kind": record.kind,
        "nominal_noise_rate": _number(record.nominal_rate),
        "realised_noise_rate": _number(record.realised_rate),
        "epochs": last["epoch"],
        "steps": last["step"],
        "train_loss": last["train_loss"],
    }
    for split in ("test", "validation"):
        name = f"{split}_accuracy"
        curve = [entry[name] for entry in entries if name in entry]
        if curve:
            figures |= {
                f"{name}_last": curve[-1],
                f"{name}_mean_last_10": float(np.mean(curve[-10:])),
                f"{name}_best": max(curve),
            }
    return figures | {
        "train_accuracy": last.get("train_accuracy"),
        "memorized": last.get("memorized"),
        "corrected": last.get("corrected"),
        "elapsed_seconds": last["elapsed_seconds"],
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def progress_line(entry: dict[str, Any]) -> str:
    """Returns the figures of an evaluation that fit into a progress bar."""
    shown = (
        ("q", "q", "{:.2f}"),
        ("bootstrap_weight", "weight", "{:.2f}"),
        ("train_loss", "loss", "{:.3f}"),
        ("validation_accuracy", "validation", "{:.3f}"),
        ("test_accuracy", "test", "{:.3f}"),
    )
    return ", ".join(
        f"{label}={form.format(entry[name])}"
        for name, label, form in shown
        if entry.get(name) is not None
    )


def format_summary(summary: dict[str, Any], workdir: Any) -> str:
    """Returns the table that is printed at the end of a run."""
    rows = [("loss", summary["loss"]), ("noise", _noise(summary))]
    for split, name in (("test", "test"), ("validation", "noisy validation")):
        figure = f"{split}_accuracy"
        if f"{figure}_last" in summary:
            rows += [
                (f"{name} accuracy, last epoch", _percent(summary[f"{figure}_last"])),
                (
                    "  mean of the last ten",
                    _percent(summary[f"{figure}_mean_last_10"]),
                ),
                ("  best", _percent(summary[f"{figure}_best"])),
            ]
    rows += [
        ("mislabelled, memorized", _percent(summary["memorized"])),
        ("mislabelled, corrected", _percent(summary["corrected"])),
        ("time", f"{summary['elapsed_seconds']:.1f} s on {summary['device']}"),
        ("files", str(workdir)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _noise(summary: dict[str, Any]) -> str:
    realised = summary["realised_noise_rate"]
    nominal = summary["nominal_noise_rate"]
    if realised is None:
        return f"{summary['noise_kind']}, rate unknown (no clean labels)"
    asked = "" if nominal is None else f", {_percent(nominal)} asked for"
    return f"{_percent(realised)} of the labels wrong ({summary['noise_kind']}{asked})"


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.1f} %"


def share(part: Any, whole: Any) -> float | None:
    """Returns a ratio of sums, ``None`` if the denominator is 0."""
    return float(part) / float(whole) if whole else None


def _number(value: float) -> float | None:
    # JSON knows no NaN.
    return None if np.isnan(value) else float(value)
