"""Each class-conditional kind against its definition, written out here by hand."""

import numpy as np
import pytest
from scipy import stats

from dal_jax import noise
from dal_jax.errors import InputError

RATE = 0.4
# Of the tests below, each compares once or ten times: a false alarm in a million.
ALPHA = 1e-7
MATRIX = [[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.25, 0.25, 0.5]]


def digits_definition(rate):
    matrix = np.eye(10)
    for source, target in ((7, 1), (2, 7), (5, 6), (6, 5), (3, 8)):
        matrix[source, source] = 1 - rate
        matrix[source, target] = rate
    return matrix


def cifar10_definition(rate):
    airplane, automobile, bird, cat, deer, dog, _, horse, _, truck = range(10)
    pairs = [(truck, automobile), (bird, airplane), (deer, horse), (cat, dog)]
    matrix = np.eye(10)
    for source, target in [*pairs, (dog, cat)]:
        matrix[source, source] = 1 - rate
        matrix[source, target] = rate
    return matrix


def ring_definition(rate, num_classes, size):
    matrix = np.zeros((num_classes, num_classes))
    for i in range(num_classes):
        start = i - i % size
        matrix[i, i] = 1 - rate
        matrix[i, start + (i - start + 1) % size] = rate
    return matrix


def uniform_definition(rate, num_classes, own):
    matrix = np.empty((num_classes, num_classes))
    for i in range(num_classes):
        for j in range(num_classes):
            if own:
                matrix[i, j] = rate / num_classes + (1 - rate) * (i == j)
            else:
                matrix[i, j] = 1 - rate if i == j else rate / (num_classes - 1)
    return matrix


CASES = {
    "none": ("none", 10, {}, np.eye(10)),
    "symmetric": ("symmetric", 10, {}, uniform_definition(RATE, 10, own=True)),
    "symmetric_2": ("symmetric", 2, {}, uniform_definition(RATE, 2, own=True)),
    "symmetric_other": (
        "symmetric_other",
        10,
        {},
        uniform_definition(RATE, 10, own=False),
    ),
    "digits": ("asymmetric", 10, {"class_map": "digits"}, digits_definition(RATE)),
    "cifar10": ("asymmetric", 10, {"class_map": "cifar10"}, cifar10_definition(RATE)),
    "own map": (
        "asymmetric",
        3,
        {"class_map": [2, 1, 1]},
        np.array([[0.6, 0, 0.4], [0, 1, 0], [0, 0.4, 0.6]]),
    ),
    "blocks": ("asymmetric_blocks", 15, {}, ring_definition(RATE, 15, 5)),
    "pair_flip": ("pair_flip", 10, {}, ring_definition(RATE, 10, 10)),
    "matrix": (
        "transition_matrix",
        3,
        {"transition_matrix": MATRIX},
        np.array(MATRIX),
    ),
}
cases = pytest.mark.parametrize(
    ("kind", "num_classes", "options", "definition"), CASES.values(), ids=CASES
)


def balanced(num_classes, per_class=6000):
    labels = np.repeat(np.arange(num_classes), per_class)
    return np.random.default_rng(1).permutation(labels)


@cases
def test_frequencies_are_those_of_the_definition(
    kind, num_classes, options, definition
):
    labels = balanced(num_classes)
    noisy = noise.apply(
        kind, labels, num_classes=num_classes, rate=RATE, seed=3, **options
    ).noisy_labels
    for label in range(num_classes):
        counts = np.bincount(noisy[labels == label], minlength=num_classes)
        possible = definition[label] > 0
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            expected = definition[label][possible] * counts.sum()
            assert stats.chisquare(counts[possible], expected).pvalue > ALPHA


@cases
def test_the_same_seed_gives_the_same_labels_and_another_one_others(
    kind, num_classes, options, definition
):
    labels = balanced(num_classes, 500)

    def draw(seed):
        return noise.apply(
            kind, labels, num_classes=num_classes, rate=RATE, seed=seed, **options
        ).noisy_labels

    np.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).any() == (kind != "none")


@cases
def test_an_example_keeps_its_label_in_any_order_and_subset(
    kind, num_classes, options, definition
):
    labels = balanced(num_classes, 500)
    whole = noise.apply(kind, labels, num_classes=num_classes, rate=RATE, **options)
    some = np.random.default_rng(2).permutation(len(labels))[: len(labels) // 3]
    part = noise.apply(
        kind, labels[some], num_classes=num_classes, rate=RATE, index=some, **options
    )
    np.testing.assert_array_equal(part.noisy_labels, whole.noisy_labels[some])


def test_without_an_index_the_position_decides():
    labels = balanced(10, 100)
    drawn = noise.symmetric(labels, 10, RATE, 0)
    given = noise.symmetric(labels, 10, RATE, 0, index=np.arange(1000))
    np.testing.assert_array_equal(drawn, given)
    assert (
        noise.symmetric(labels, 10, RATE, 0, index=np.arange(1000) + 7) != drawn
    ).any()


@pytest.mark.parametrize(
    ("draw", "share"),
    [
        (lambda labels, seed: noise.symmetric(labels, 10, RATE, seed), 0.36),
        (lambda labels, seed: noise.symmetric_other(labels, 10, RATE, seed), 0.4),
        (lambda labels, seed: noise.pair_flip(labels, 10, RATE, seed), 0.4),
        (lambda labels, seed: noise.asymmetric(labels, "digits", RATE, seed), 0.2),
    ],
    ids=["symmetric", "symmetric_other", "pair_flip", "asymmetric"],
)
def test_flips_are_independent_and_their_number_is_binomial(draw, share):
    """Neither rounded per class nor coupled: over seeds, counts vary as a binomial."""
    labels = np.arange(1000) % 10
    flipped = np.stack([draw(labels, seed) != labels for seed in range(300)])
    assert stats.binomtest(int(flipped.sum()), flipped.size, share).pvalue > ALPHA
    # The flip rate differs between classes in asymmetric noise; what varies is p(1-p).
    rates = np.array([flipped[:, labels == k].mean() for k in range(10)])
    variance = 100 * np.sum(rates * (1 - rates))
    dispersion = 299 * flipped.sum(axis=1).var(ddof=1) / variance
    low, high = stats.chi2.ppf([ALPHA, 1 - ALPHA], 299)
    assert low < dispersion < high


def test_asymmetric_does_not_flip_back_what_it_has_flipped():
    labels = balanced(10, 50)
    noisy = noise.asymmetric(labels, "digits", 1.0, 0)
    assert (noisy[labels == 5] == 6).all()
    assert (noisy[labels == 6] == 5).all()
    # 2 goes to 7 and stays there, although 7 goes to 1.
    assert (noisy[labels == 2] == 7).all()
    assert (noisy[labels == 7] == 1).all()


@pytest.mark.parametrize("kind", ["symmetric", "symmetric_other", "pair_flip"])
def test_rate_zero_changes_nothing(kind):
    labels = balanced(10, 50)
    record = noise.apply(kind, labels, num_classes=10, rate=0, clean_labels=labels)
    np.testing.assert_array_equal(record.noisy_labels, labels)
    assert record.realised_rate == 0


def test_rate_one_of_symmetric_other_leaves_no_label_right():
    labels = balanced(10, 50)
    assert (noise.symmetric_other(labels, 10, 1.0, 0) != labels).all()


def test_cifar100_flips_to_the_next_class_of_the_superclass():
    class_map = noise.CLASS_MAPS["cifar100"]
    coarse = noise.class_maps.CIFAR100_COARSE
    np.testing.assert_array_equal(np.bincount(coarse), [5] * 20)
    np.testing.assert_array_equal(coarse[class_map], coarse)
    for fine, target in enumerate(class_map):
        siblings = [k for k in range(100) if coarse[k] == coarse[fine]]
        later = [k for k in siblings if k > fine]
        assert target == (later[0] if later else siblings[0])


def test_blocks_of_five_mostly_leave_the_superclass():
    coarse = noise.class_maps.CIFAR100_COARSE
    staying = coarse[noise.blocks_of_five(100)] == coarse
    assert staying.sum() == 6


@pytest.mark.parametrize(
    "rate", [-0.1, 1.1, 40, float("nan"), float("inf"), "0.4", True]
)
@pytest.mark.parametrize(
    "kind", ["symmetric", "symmetric_other", "pair_flip", "asymmetric", "instance"]
)
def test_a_rate_outside_0_to_1_is_refused(kind, rate):
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        noise.apply(
            kind,
            np.arange(10),
            num_classes=10,
            rate=rate,
            class_map="digits",
            images=np.zeros((10, 2, 2, 1), np.uint8),
        )


BAD = {
    "unknown kind": ("symetric", {}, "unknown noise kind 'symetric'.*'symmetric'"),
    "map of another size": (
        "asymmetric",
        {"class_map": "cifar100"},
        "'cifar100' is for 100 classes and the data set has 10",
    ),
    "own map of another size": (
        "asymmetric",
        {"class_map": [1, 0]},
        "is for 2 classes and the data set has 10",
    ),
    "unknown map": (
        "asymmetric",
        {"class_map": "cifar"},
        "unknown class map 'cifar'.*cifar10, cifar100, digits",
    ),
    "no map": ("asymmetric", {}, "needs a class map.*digits, cifar10"),
    "map to no class": ("asymmetric", {"class_map": [10] * 10}, "from 10 to 10"),
    "map of floats": ("asymmetric", {"class_map": [0.5] * 10}, "dtype float64"),
    "seed": ("symmetric", {"seed": -1}, "seed.*at least 0, got -1"),
    "matrix of another size": (
        "transition_matrix",
        {"transition_matrix": np.eye(3)},
        "is for 3 classes and the data set has 10",
    ),
    "matrix not square": (
        "transition_matrix",
        {"transition_matrix": np.ones((10, 9))},
        r"square matrix, got shape \(10, 9\)",
    ),
    "matrix rows": (
        "transition_matrix",
        {"transition_matrix": np.eye(10) * 0.9},
        "row 0 sums to 0.9",
    ),
    "matrix negative": (
        "transition_matrix",
        {"transition_matrix": np.eye(10) * 2 - 1},
        "0 to 1",
    ),
    "matrix not numbers": (
        "transition_matrix",
        {"transition_matrix": np.full((10, 10), "x")},
        "expected numbers",
    ),
    "matrix unknown": ("transition_matrix", {}, "needs a file: set config.noise.path"),
    "matrix elsewhere": (
        "symmetric",
        {"transition_matrix": np.eye(10)},
        "takes no transition matrix",
    ),
    "file unknown": ("file", {}, "needs a file: set config.noise.path"),
    "images unknown": ("instance", {}, "needs the images"),
    "index repeated": ("symmetric", {"index": [0] * 20}, "each one once"),
    "index negative": ("symmetric", {"index": np.arange(20) - 1}, "0 or more"),
    "index too short": ("symmetric", {"index": [0]}, "expected 20 integers"),
    "clean too short": ("symmetric", {"clean_labels": [0]}, "20 labels and 1 clean"),
    "clean out of range": (
        "symmetric",
        {"clean_labels": [10] * 20},
        "clean labels: values from 10 to 10",
    ),
}


@pytest.mark.parametrize(("kind", "options", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(kind, options, message):
    labels = np.arange(20) % 10
    with pytest.raises(InputError, match=message) as caught:
        noise.apply(kind, labels, num_classes=10, **({"rate": 0.4} | options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 10], "values from 0 to 10, and the 10 classes are 0 to 9"),
        ([-1, 0], "from -1 to 0"),
        ([0.0, 1.0], "expected integers, got dtype float64"),
        ([True, False], "expected integers, got dtype bool"),
        ([[0], [1]], r"got shape \(2, 1\)"),
        (np.empty(0, int), r"got shape \(0,\)"),
    ],
)
def test_bad_labels_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        noise.symmetric(labels, 10, 0.4, 0)


def test_blocks_need_a_multiple_of_five_classes():
    with pytest.raises(InputError, match="multiple of 5 classes, and there are 12"):
        noise.apply("asymmetric_blocks", np.arange(12), num_classes=12, rate=0.4)


def test_every_kind_is_listed_and_only_those():
    defined = {kind for kind, *_ in CASES.values()}
    assert set(noise.kinds()) == defined | {"instance", "file"}


def test_no_draw_lands_on_an_impossible_class(monkeypatch):
    """Not even 0, nor the largest number below 1, with rows that sum to 1 - 1e-16."""
    draws = np.array([0.0, np.nextafter(1, 0)])
    monkeypatch.setattr(noise.transition, "uniforms", lambda *_: draws)
    row = [0.0, *[0.1] * 10, 0.0]
    matrix = np.tile(row, (12, 1))
    assert noise.from_transition_matrix([5, 5], matrix, 0).tolist() == [1, 10]
