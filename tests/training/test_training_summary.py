"""The figures that a run reports, from hand-made evaluations."""

import numpy as np
import pytest

from dal_jax.noise import NoiseRecord
from dal_jax.training import summary
from dal_jax.training.state import EvalSums


def sums(count, correct, mislabelled=0, memorized=0, corrected=0):
    values = (count, correct, mislabelled, memorized, corrected)
    return EvalSums(*map(np.float32, values))  # pyright: ignore


def test_accuracies_are_ratios_of_sums():
    figures = summary.accuracies(
        {"train": sums(1000, 600, 400, 100, 280), "test": sums(500, 450)}
    )
    assert figures == {
        "train_accuracy": pytest.approx(0.6),
        "test_accuracy": pytest.approx(0.9),
        "memorized": pytest.approx(0.25),
        "corrected": pytest.approx(0.7),
        # Of 600 others 600 - 100 are predicted as their label.
        "fitted": pytest.approx(500 / 600),
    }


def test_nothing_is_known_to_be_mislabelled():
    figures = summary.accuracies({"train": sums(10, 5)})
    assert figures["memorized"] is None
    assert figures["corrected"] is None
    assert figures["fitted"] is None


def make_record(known=True):
    noisy, clean = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    return NoiseRecord.count(
        noisy.astype(np.int32),
        clean.astype(np.int32) if known else None,
        np.arange(4),
        num_classes=2,
        nominal_rate=0.3,
        kind="symmetric",
        options={},
    )


def make_entries(curve):
    return [
        {
            "epoch": i + 1,
            "step": 10 * (i + 1),
            "train_loss": 0.5,
            "train_accuracy": 0.4,
            "memorized": 0.1,
            "corrected": 0.2,
            "test_accuracy": accuracy,
            "elapsed_seconds": 3.0 * (i + 1),
        }
        for i, accuracy in enumerate(curve)
    ]


def test_last_mean_of_the_last_ten_and_best():
    curve = [0.1, 0.95, *np.linspace(0.5, 0.59, 10)]
    figures = summary.summarize("dal", make_record(), make_entries(curve))
    assert figures["test_accuracy_last"] == pytest.approx(0.59)
    assert figures["test_accuracy_mean_last_10"] == pytest.approx(0.545)
    assert figures["test_accuracy_best"] == pytest.approx(0.95)
    assert figures["nominal_noise_rate"] == pytest.approx(0.3)
    assert figures["realised_noise_rate"] == pytest.approx(0.25)
    assert (figures["epochs"], figures["steps"]) == (12, 120)
    assert figures["elapsed_seconds"] == 36.0


def test_fewer_than_ten_evaluations():
    figures = summary.summarize("dal", make_record(), make_entries([0.2, 0.4]))
    assert figures["test_accuracy_mean_last_10"] == pytest.approx(0.3)


def test_unknown_clean_labels_are_said_to_be_unknown():
    figures = summary.summarize("dal", make_record(known=False), make_entries([0.2]))
    assert figures["realised_noise_rate"] is None
    assert "unknown" in summary.format_summary(figures, "runs/x")


def test_the_table_names_what_was_measured():
    figures = summary.summarize("dal", make_record(), make_entries([0.2, 0.4]))
    table = summary.format_summary(figures, "runs/x")
    for word in ("25.0 %", "30.0 %", "40.0 %", "10.0 %", "20.0 %", "6.0 s", "runs/x"):
        assert word in table


def test_the_progress_line_leaves_out_what_is_not_there():
    entry = {"q": 0.75, "bootstrap_weight": 0.0, "test_accuracy": None}
    assert summary.progress_line(entry) == "q=0.75, weight=0.00"
