"""The statistics of a comparison, against formulas and against SciPy's own tests."""

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from dal_jax.analysis.comparison import compare, estimate, holm, paired_p_value
from dal_jax.analysis.selection import choose, chosen_rows
from dal_jax.errors import InputError

SCORES = {
    "ce": [0.50, 0.52, 0.49, 0.53, 0.51],
    "gce": [0.80, 0.83, 0.79, 0.84, 0.78],
    "dal": [0.81, 0.82, 0.80, 0.85, 0.80],
}


def rows_of(scores, noise="symmetric-0.4"):
    return [
        {"loss": loss, "noise": noise, "seed": seed, "score": score}
        for loss, values in scores.items()
        for seed, score in enumerate(values)
    ]


def test_mean_deviation_and_interval():
    found = estimate(SCORES["gce"])
    assert found.mean == pytest.approx(0.808)
    assert found.sd == pytest.approx(np.std(SCORES["gce"], ddof=1))
    resampled = np.random.default_rng(1).choice(SCORES["gce"], (20_000, 5)).mean(1)
    assert found.low == pytest.approx(np.quantile(resampled, 0.025), abs=0.003)
    assert found.high == pytest.approx(np.quantile(resampled, 0.975), abs=0.003)
    assert estimate(SCORES["gce"]) == found


def test_one_value_has_no_spread_and_none_no_mean():
    assert math.isnan(estimate([0.5]).sd)
    assert math.isnan(estimate([0.5]).low)
    assert math.isnan(estimate([]).mean)
    assert estimate([0.5, math.nan]).count == 1


def test_the_best_and_what_cannot_be_told_from_it():
    cells = compare(rows_of(SCORES), "score").cells
    marks = {name: (c.best, c.tied) for (name, _), c in cells.items()}
    assert marks == {"ce": (False, False), "gce": (False, True), "dal": (True, False)}
    p_values = [stats.ttest_rel(SCORES["dal"], SCORES[x]).pvalue for x in ("ce", "gce")]
    assert cells["ce", "symmetric-0.4"].p_value == pytest.approx(2 * min(p_values))
    assert cells["gce", "symmetric-0.4"].p_value == pytest.approx(max(p_values))


def test_five_pairs_tell_nothing_in_an_exact_wilcoxon_test():
    cells = compare(rows_of(SCORES), "score", test="wilcoxon").cells
    assert cells["ce", "symmetric-0.4"].p_value == pytest.approx(2 * 0.0625)
    assert cells["ce", "symmetric-0.4"].tied


def test_a_method_without_competitors_is_neither_best_nor_tied():
    found = compare(rows_of({"dal": SCORES["dal"]}), "score")
    cell = found.cells["dal", "symmetric-0.4"]
    assert (cell.best, cell.tied, found.ranks) == (None, False, {})


def test_pairs_are_of_the_same_seed():
    one = dict(enumerate(SCORES["dal"]))
    shifted = {seed + 1: score - 0.1 for seed, score in one.items()}
    p_value, pairs = paired_p_value(one, shifted)
    expected = stats.ttest_rel(SCORES["dal"][1:], np.array(SCORES["dal"][:-1]) - 0.1)
    assert pairs == 4
    assert p_value == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_equal_scores_are_no_difference(test):
    assert paired_p_value({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}, test) == (1.0, 2)


def test_a_difference_that_is_always_the_same_is_certain():
    p_value, _ = paired_p_value({0: 0.75, 1: 1.25}, {0: 0.5, 1: 1.0})
    assert p_value == 0.0


def test_holm_is_step_down_and_leaves_what_is_no_test():
    assert holm([0.01, math.nan, 0.02, 0.03])[[0, 2, 3]] == pytest.approx(
        [0.03, 0.04, 0.04]
    )
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]


def test_unknown_test_is_refused():
    with pytest.raises(InputError, match="did you mean 'wilcoxon'"):
        compare(rows_of(SCORES), "score", test="wilcoxn")  # type: ignore[arg-type]


def test_failed_runs_are_counted_and_not_averaged():
    rows = rows_of({"ce": [0.5, None, ""], "dal": [0.9, 0.8, 0.7]})
    cell = compare(rows, "score").cells["ce", "symmetric-0.4"]
    assert (cell.failed, cell.estimate.count, cell.estimate.mean) == (2, 1, 0.5)
    assert cell.tied  # one pair tells nothing


def test_average_ranks_share_ties_and_put_failures_last():
    rows = rows_of({"a": [0.9, 0.9], "b": [0.9, None], "c": [0.1, 0.1]}, "n1")
    rows += rows_of({"a": [0.2, 0.2], "b": [0.5, 0.5], "c": [0.1, 0.1]}, "n2")
    ranks = compare(rows, "score").ranks
    # n1: 1.5 1.5 3, then 1 3 2; n2: 2 1 3 twice.
    assert ranks["a"].mean == np.mean([(1.5 + 2) / 2, (1 + 2) / 2])
    assert ranks["b"].mean == np.mean([(1.5 + 1) / 2, (3 + 1) / 2])
    assert ranks["c"].mean == np.mean([3, 2.5])
    assert ranks["c"].low == 2.5


def test_only_repetitions_that_are_complete_are_ranked():
    rows = rows_of({"a": [0.9, 0.1], "b": [0.8]})
    assert compare(rows, "score").ranks["a"].mean == 1.0
    assert compare(rows[:1] + rows_of({"b": [0.8]}, "other"), "score").ranks == {}


def test_lines_of_a_csv_file_are_rows():
    text = "loss,noise,seed,score\nce,a,0,0.5\nce,a,1,\ndal,a,0,0.75\n"
    cells = compare(csv.DictReader(io.StringIO(text)), "score").cells
    assert cells["dal", "a"].best
    assert cells["ce", "a"].failed == 1


def setting(name, seed, validation, test, noise="a"):
    return {
        "loss": "dal",
        "noise": noise,
        "seed": seed,
        "method": name,
        "validation_accuracy_last": validation,
        "test_accuracy_last": test,
    }


def test_validation_chooses_and_test_only_says_what_that_costs():
    rows = [setting("x", 0, 0.6, 0.80), setting("x", 1, 0.6, 0.82)]
    rows += [setting("y", 0, 0.5, 0.90), setting("y", 1, 0.4, 0.86)]
    (choice,) = choose(rows)
    assert (choice.chosen, choice.best) == ("x", "y")
    assert choice.score.mean == pytest.approx(0.81)
    assert choice.cost.mean == pytest.approx((0.10 + 0.04) / 2)
    assert chosen_rows(rows, [choice]) == rows[:2]


def test_each_noise_has_its_own_choice():
    rows = [setting("x", 0, 0.6, 0.8), setting("y", 0, 0.5, 0.9)]
    rows += [setting("x", 0, 0.6, 0.8, "b"), setting("y", 0, 0.7, 0.9, "b")]
    assert [choice.chosen for choice in choose(rows)] == ["x", "y"]


def test_a_setting_with_a_run_that_failed_is_not_chosen():
    rows = [setting("x", 0, 0.6, 0.8), setting("x", 1, None, None)]
    rows += [setting("y", 0, 0.5, 0.7), setting("y", 1, 0.5, 0.7)]
    assert choose(rows)[0].chosen == "y"
