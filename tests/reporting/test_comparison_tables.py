"""Tables of a comparison: what is bold, what is marked, what they say of the test."""

import re

import pytest

from dal_jax.analysis.comparison import compare
from dal_jax.reporting.comparison_tables import (
    how_to_read,
    latex_scores,
    markdown_scores,
)

SCORES = {
    "ce": [0.50, 0.52, 0.49, 0.53, 0.51],
    "gce_q": [0.80, 0.83, 0.79, 0.84, 0.78],
    "dal": [0.81, 0.82, 0.80, 0.85, 0.80],
}


def found(scores=SCORES, **options):
    rows = [
        {"loss": loss, "noise": noise, "seed": seed, "score": score}
        for noise in ("symmetric-0.4", "human_1")
        for loss, values in scores.items()
        for seed, score in enumerate(values)
    ]
    return compare(rows, "score", **options)


def test_the_best_is_bold_and_what_cannot_be_told_from_it_is_marked():
    lines = markdown_scores(found()).splitlines()
    assert lines[0] == "|  | symmetric-0.4 | human_1 | average rank |"
    assert lines[2].startswith("| ce | 0.510 ± 0.016 [0.49")
    assert lines[3].startswith("| gce_q | 0.808 ± 0.026† [0.78")
    assert lines[4].startswith("| dal | **0.816 ± 0.021** [0.80")
    assert lines[4].endswith("| 1.2 [1.0, 1.6] |")


def test_the_test_is_named_and_how_little_few_seeds_can_tell():
    text = how_to_read(found())
    assert "paired t-test over 5 seeds" in text
    assert "5 pairs cannot reach 0.05" in text
    assert "its least p is 0.0625" in text
    assert "exact Wilcoxon signed-rank test over 5" in how_to_read(
        found(test="wilcoxon")
    )
    many = {name: values * 2 for name, values in SCORES.items()}
    assert "cannot reach" not in how_to_read(found(many))
    assert "by one seed" in how_to_read(found({n: v[:1] for n, v in SCORES.items()}))


def test_failed_runs_are_in_the_cell():
    scores = SCORES | {"ce": [None, 0.5, None, 0.6, 0.5], "mae": [None] * 5}
    text = markdown_scores(found(scores))
    assert re.search(r"\| ce \| 0\.533 ± 0\.058 \[[\d., ]*\] \(2 failed\) \|", text)
    assert "| mae | – (5 failed) | – (5 failed) |" in text


def test_latex_is_booktabs_with_everything_escaped():
    text = latex_scores(found(), f"100 % of x_y. {how_to_read(found())}")
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count("\\" + rule) == 1
    assert r"\textbf{0.816 $\pm$ 0.021}" in text
    assert r"gce\_q & 0.808 $\pm$ 0.026$^\dagger$" in text
    assert r"100 \% of x\_y." in text
    assert r"{lccc}" in text
    assert not re.search(r"[^\\][%#]|[±†–]", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in rows} == {3}
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_scores_without_spread_have_an_interval_of_no_length(score):
    text = markdown_scores(found({"ce": [score] * 3, "dal": [score] * 3}))
    assert f"**{score:.3f} ± 0.000** [{score:.3f}, {score:.3f}]" in text


def test_one_method_has_no_marks_and_no_rank():
    alone = found({"dal": SCORES["dal"]})
    text = markdown_scores(alone) + how_to_read(alone)
    assert not re.search("[*†]|rank|Bold", text)
    assert "| dal | 0.816 ± 0.021 [" in text
