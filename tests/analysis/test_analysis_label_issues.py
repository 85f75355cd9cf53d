"""Label issues on arrays whose answer is known."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

import dal_jax.analysis
from dal_jax.analysis import clusters, label_issues, rank_quality
from dal_jax.errors import InputError
from dal_jax.noise.record import count_transitions


def softmax(logits):
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def made(matrix, size=1500, shares=None, gap=4.0, seed=0):
    """True classes, labels drawn by a matrix, and predictions of the true class."""
    rng = np.random.default_rng(seed)
    num_classes = len(matrix)
    true = rng.choice(num_classes, size, p=shares)
    given = np.array([rng.choice(num_classes, p=matrix[k]) for k in true])
    logits = rng.normal(size=(size, num_classes)) + gap * np.eye(num_classes)[true]
    return true, given, softmax(logits)


PAIRS = np.array([[0.6, 0.4, 0, 0], [0.4, 0.6, 0, 0], [0, 0.3, 0.7, 0], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def pairs():
    true, given, probabilities = made(PAIRS)
    return true, given, probabilities, label_issues(given, probabilities)


def test_classes_that_confuse_each_other_are_told_apart(pairs):
    true, given, _, audit = pairs
    wrong = true != given
    quality = rank_quality(audit.score, wrong, audit.num_issues)
    assert quality.auroc > 0.99
    assert quality.precision > 0.95
    assert quality.recall > 0.95
    assert abs(audit.num_issues - wrong.sum()) < 0.02 * len(true)
    drawn = count_transitions(given, true, 4)
    np.testing.assert_allclose(audit.transition_matrix, drawn, atol=0.02)
    assert np.mean(audit.suggested[audit.is_issue] == true[audit.is_issue]) > 0.95
    named = {(i, j) for i, j, _ in audit.confused_pairs(3)}
    assert named == {(0, 1), (1, 0), (2, 1)}


def test_a_collapsed_class_is_found_where_a_margin_is_blind():
    true, given, probabilities = made(PAIRS)
    # The network says 0 for all of class 1 too, though a little less surely.
    logits = np.log(probabilities)
    logits[true == 1, 0] = logits[true == 1, 1] + 1
    logits[true == 0, 1] -= 2
    probabilities = softmax(logits)
    every = np.arange(len(true))
    own = probabilities[every, given]
    probabilities_of_others = probabilities.copy()
    probabilities_of_others[every, given] = 0
    margin = own - probabilities_of_others.max(axis=1)
    wrong = true != given
    audit = label_issues(given, probabilities)
    found = rank_quality(audit.score, wrong).auroc
    assert found > 0.97
    assert found > rank_quality(-margin, wrong).auroc + 0.05


def test_the_fields_belong_together(pairs):
    _, given, _, audit = pairs
    size = len(given)
    np.testing.assert_array_equal(np.sort(audit.order), np.arange(size))
    np.testing.assert_array_equal(audit.order[audit.rank], np.arange(size))
    assert np.all(np.diff(audit.score[audit.order]) <= 1e-6)
    assert audit.score.min() >= 0
    assert audit.score.max() <= 1
    np.testing.assert_array_equal(audit.is_issue, audit.rank < audit.num_issues)
    assert np.all(audit.suggested[audit.is_issue] != given[audit.is_issue])
    assert audit.num_issues == round(float(audit.score.sum(dtype=np.float64)))
    counts = audit.expected_counts
    np.testing.assert_allclose(counts.sum(axis=0), np.bincount(given), rtol=1e-4)
    np.testing.assert_allclose(audit.transition_matrix.sum(axis=1), 1, rtol=1e-6)


def test_neither_the_order_of_examples_nor_of_classes_matters(pairs):
    _, given, probabilities, audit = pairs
    rng = np.random.default_rng(1)
    rows, classes = rng.permutation(len(given)), rng.permutation(4)
    renamed = np.argsort(classes)
    moved = label_issues(renamed[given[rows]], probabilities[rows][:, classes])
    np.testing.assert_allclose(moved.score, audit.score[rows], atol=1e-3)
    assert abs(moved.num_issues - audit.num_issues) <= 1
    issues = moved.is_issue & audit.is_issue[rows]
    np.testing.assert_array_equal(
        classes[moved.suggested[issues]], audit.suggested[rows][issues]
    )
    np.testing.assert_allclose(
        moved.transition_matrix,
        audit.transition_matrix[np.ix_(classes, classes)],
        atol=1e-3,
    )


def test_the_same_twice_whatever_was_drawn_and_however_rows_are_scaled(pairs):
    _, given, probabilities, audit = pairs
    np.random.default_rng(5).normal(size=3)
    np.testing.assert_array_equal(label_issues(given, probabilities).score, audit.score)
    scaled = probabilities * np.linspace(0.5, 2, len(given))[:, None]
    np.testing.assert_allclose(
        label_issues(given, scaled).score, audit.score, atol=1e-3
    )


def test_right_labels_and_rare_classes_are_left_alone():
    shares = np.array([20, 20, 20, 1]) / 61
    true, given, probabilities = made(np.eye(4), shares=shares)
    assert label_issues(given, probabilities).num_issues <= 0.03 * len(true)
    matrix = 0.8 * np.eye(4) + 0.05
    true, given, probabilities = made(matrix, shares=shares, seed=1)
    audit = label_issues(given, probabilities)
    rightly_rare = (true == 3) & (given == 3)
    assert rightly_rare.sum() > 5
    assert audit.is_issue[rightly_rare].mean() < 0.2
    assert abs(audit.num_issues - np.sum(true != given)) < 0.05 * len(true)


def test_few_examples_say_little_against_their_label():
    # Predictions that overlap, sizes from 160 down to 8, and all labels right.
    shares = 20.0 ** -np.linspace(0, 1, 6)
    flagged = 0
    for seed in range(6):
        true, given, probabilities = made(
            np.eye(6), size=400, shares=shares / shares.sum(), gap=2.0, seed=seed
        )
        flagged += label_issues(given, probabilities).is_issue[true >= 4].sum()
    assert flagged <= 4


def test_a_wide_class_around_a_narrow_one_is_known_by_its_own_covariance():
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 2], 400)
    centers = np.array([[0, 0, 0], [1, 0, -1], [0, 9, -9]])
    spread = np.array([0.3, 3.0, 1.0])[true, None]
    features = centers[true] + spread * rng.normal(size=(1200, 3))
    given = np.where(rng.random(1200) < 0.3, (true + 1) % 3, true)
    features = features - features.mean(axis=1, keepdims=True)
    model = clusters.fit(features.astype(np.float32), given)
    believed = np.argmax(model.posterior(features.astype(np.float32), given), axis=1)
    assert np.mean(believed == true) > 0.95
    # A root is the inverse of a scale.
    assert model.log_scales[0] > model.log_scales[2] > model.log_scales[1]


def test_a_class_whose_predictions_coincide_is_one_point_and_no_error():
    true, given, probabilities = made(PAIRS)
    probabilities[true == 3] = probabilities[true == 3][0]
    audit = label_issues(given, probabilities)
    assert np.isfinite(audit.score).all()
    assert rank_quality(audit.score, true != given).auroc > 0.99


def test_many_classes_through_the_nearest_ones(monkeypatch):
    matrix = 0.8 * np.eye(20) + 0.2 * np.roll(np.eye(20), 1, axis=1)
    true, given, probabilities = made(matrix, gap=6.0)
    whole = label_issues(given, probabilities)
    assert rank_quality(whole.score, true != given).auroc > 0.99
    monkeypatch.setattr(clusters, "_CANDIDATES", 20)
    exact = label_issues(given, probabilities)
    np.testing.assert_allclose(whole.score, exact.score, atol=0.05)


def test_a_fit_on_some_rows_scores_all(pairs, monkeypatch):
    true, given, probabilities, audit = pairs
    monkeypatch.setattr(clusters, "_MOST_FITTED", 800)
    module = sys.modules["dal_jax.analysis.label_issues"]
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 1000)
    some = label_issues(given, probabilities)
    assert np.corrcoef(some.score, audit.score)[0, 1] > 0.97
    assert rank_quality(some.score, true != given).auroc > 0.98


def test_two_classes_empty_classes_and_one_class():
    true, given, probabilities = made(np.array([[0.7, 0.3], [0.1, 0.9]]), gap=3.0)
    audit = label_issues(given, probabilities)
    assert rank_quality(audit.score, true != given).auroc > 0.95
    padded = np.pad(probabilities, ((0, 0), (0, 2)), constant_values=1e-4)
    audit = label_issues(given, padded)
    assert set(np.unique(audit.suggested)) <= {0, 1}
    assert np.isnan(audit.transition_matrix[2:]).all()
    alone = label_issues(np.zeros(len(given), int), probabilities)
    assert alone.num_issues == 0
    assert alone.score.max() == 0
    assert np.all(alone.suggested == 0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_certain_and_uniform_predictions_stay_finite(dtype):
    labels = np.array([0, 1, 2, 0, 1, 2, 1, 0])
    certain = np.eye(3, dtype=dtype)[[0, 1, 2, 0, 1, 2, 0, 0]]
    audit = label_issues(labels, certain)
    assert np.isfinite(audit.score).all()
    uniform = label_issues(labels, np.full((8, 3), 1 / 3, dtype))
    assert np.isfinite(uniform.score).all()
    assert len(np.unique(uniform.score.round(5)[labels == 0])) == 1
    assert label_issues(np.array([1]), np.array([[0.2, 0.8]])).num_issues == 0


@pytest.mark.parametrize(
    ("labels", "probabilities", "line"),
    [
        ([0, 1], np.ones((3, 2)), r"do not fit: expected \[N\] and \[N, K\]"),
        ([0, 1], np.ones(2), r"do not fit"),
        ([], np.ones((0, 2)), "nothing to audit"),
        ([0, 0], np.ones((2, 1)), "nothing to audit"),
        ([0.0, 1.0], np.ones((2, 2)), "dtype float64: expected integers"),
        ([0, 2], np.ones((2, 2)), "span 0 to 2: expected 0 to 1"),
        ([-1, 1], np.ones((2, 2)), "span -1 to 1"),
        ([0, 1], [[1, 0], [np.nan, 1]], "1 rows .* the first is row 1"),
        ([0, 1], [[1, np.inf], [0, 1]], "the first is row 0"),
        ([0, 1], [[1, 0], [-0.1, 1]], "negative or not finite"),
    ],
)
def test_bad_arrays_are_one_line(labels, probabilities, line):
    with pytest.raises(InputError, match=line) as caught:
        label_issues(np.asarray(labels, None if labels else int), probabilities)
    assert "\n" not in str(caught.value)


def test_ranking_by_hand():
    score = np.array([0.9, 0.7, 0.7, 0.2])
    wrong = np.array([True, False, True, False])
    ranking = rank_quality(score, wrong, 1)
    assert ranking == (pytest.approx(3.5 / 4), pytest.approx((1 + 2 / 3) / 2), 1, 0.5)
    assert rank_quality(score, wrong).precision == 0.5
    nothing = rank_quality(score, np.zeros(4, bool), 2)
    assert np.isnan(nothing.auroc)
    assert nothing.precision == 0
    assert np.isnan(rank_quality(score, np.ones(4, bool)).auroc)


def test_analysis_knows_numpy_and_scipy_alone():
    for path in Path(dal_jax.analysis.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            elif not isinstance(node, ast.Import):
                continue
            for name in names:
                known = ("numpy", "scipy", "dal_jax.analysis", "dal_jax.errors")
                standard = name.split(".")[0] in sys.stdlib_module_names
                assert standard or name.startswith(known), (path, name)
