"""What is gathered of every example, against a plain loop in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dal_jax.training import dynamics

N, K, EPOCHS, BATCH = 13, 4, 6, 5
STEPS_PER_EPOCH = 3
STEPS = EPOCHS * STEPS_PER_EPOCH


observe = jax.jit(dynamics.observe, static_argnames="phases")


def q(step):
    return {"q": 0.6 + 0.9 * step / STEPS}


@pytest.fixture(scope="module")
def run():
    """Logits of every step, labels, the order, and what the loop gathers of them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(STEPS, BATCH, K)).astype(np.float32) * 3
    labels = rng.integers(0, K, N)
    epochs = [
        np.resize(rng.permutation(N), (STEPS_PER_EPOCH, BATCH)) for _ in range(EPOCHS)
    ]
    order = np.concatenate(epochs)
    phases = dynamics.make_phases(STEPS, EPOCHS, q)

    @functools.partial(jax.jit, donate_argnums=0)
    def gather(seen, first, last):
        def body(step, seen):
            rows = jnp.asarray(order)[step]
            return dynamics.observe(
                seen,
                jnp.asarray(logits)[step],
                jnp.asarray(labels)[rows],
                rows,
                step,
                phases,
            )

        return lax.fori_loop(first, last, body, seen)

    return logits, labels, order, phases, gather


def by_hand(logits, labels, order, late_start):
    shown = {i: [] for i in range(N)}
    for step in range(STEPS):
        for z, i in zip(logits[step].astype(float), order[step], strict=True):
            log_p = z - np.log(np.exp(z).sum())
            given = log_p[labels[i]]
            margin = given - np.delete(log_p, labels[i]).max()
            shown[i].append((step, log_p, np.exp(given), margin))
    late = {i: [x for x in shown[i] if x[0] >= late_start] for i in shown}
    return shown, late


def test_sums_are_those_of_a_plain_loop(run):
    logits, labels, order, phases, gather = run
    assert phases.late_start == int(np.ceil(0.4 / 0.9 * STEPS)) == 8
    seen = gather(dynamics.init(N, K, phases), 0, STEPS)
    told = dynamics.summary(seen)
    shown, late = by_hand(logits, labels, order, phases.late_start)
    for i in range(N):
        right = [x[3] > 0 for x in shown[i]]
        assert told["num_seen"][i] == len(shown[i])
        assert told["num_correct"][i] == sum(right)
        forgotten = sum(a and not b for a, b in itertools.pairwise(right))
        assert told["forgetting_events"][i] == forgotten
        for name, examples, column in (
            ("mean_log_probability", shown[i], 1),
            ("mean_given_probability", shown[i], 2),
            ("mean_margin", shown[i], 3),
            ("late_mean_given_probability", late[i], 2),
            ("late_mean_margin", late[i], 3),
        ):
            expected = np.mean([x[column] for x in examples], axis=0)
            np.testing.assert_allclose(told[name][i], expected, rtol=2e-5, atol=1e-6)
        of_late = np.sum([x[1] for x in late[i]], axis=0)
        assert told["late_predicted_class"][i] == np.argmax(of_late)
        for step, _, given, _ in shown[i]:
            # Of two in an epoch the last one stays.
            later = [x for x in shown[i] if x[0] // 3 == step // 3 and x[0] > step]
            if not later:
                level = int(told["history"][i, step // STEPS_PER_EPOCH])
                assert abs(level - max(255 * given, 1)) <= 0.501
    assert told["forgetting_events"].sum() > 5
    early = told["early_mean_log_probability"]
    assert np.abs(early - told["mean_log_probability"]).max() > 0.1


def test_a_stop_in_the_middle_changes_no_bit(run):
    *_, phases, gather = run
    whole = gather(dynamics.init(N, K, phases), 0, STEPS)
    half = gather(dynamics.init(N, K, phases), 0, 7)
    half = jax.tree.map(lambda x: jnp.asarray(np.array(x)), half)
    resumed = gather(half, 7, STEPS)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_what_is_not_finite_or_left_out_leaves_no_trace():
    phases = dynamics.make_phases(4, 2)
    before = dynamics.init(5, K, phases)
    logits = np.zeros((3, K), np.float32)
    logits[0, 1], logits[1, 2] = np.nan, np.inf
    batch = logits, np.array([0, 1, 2]), np.array([0, 1, 4])
    after = dynamics.summary(observe(before, *batch, 0, phases, where=True))
    np.testing.assert_array_equal(after["num_seen"], [0, 0, 0, 0, 1])
    assert np.isnan(after["mean_margin"][:4]).all()
    np.testing.assert_array_equal(after["late_predicted_class"], [-1] * 5)
    skipped = observe(before, *batch, 0, phases, where=False)
    jax.tree.map(np.testing.assert_array_equal, before, skipped)


def test_the_leading_classes_where_all_do_not_fit():
    phases = dynamics.make_phases(20, 20)
    seen = dynamics.init(3, 50, phases, most_numbers=299)
    assert seen.log_probabilities is None
    predicted = [7, 8, 7, 9, 10, 11, 7, 12, 7, 8, 7, 7]
    for step, k in enumerate(predicted):
        logits = np.float32(9) * np.eye(50, dtype=np.float32)[[k]]
        seen = observe(seen, logits, np.array([0]), np.array([1]), step, phases)
    told = dynamics.summary(seen)
    np.testing.assert_array_equal(told["late_predicted_class"], [-1, 7, -1])
    assert told["leading_classes"].shape == (3, 4)
    # A class that has no place takes that of the lightest.
    assert set(told["leading_classes"][1]) == {7, 8, 11, 12}
    share = np.exp(9) / (np.exp(9) + 49)
    np.testing.assert_allclose(told["leading_weights"][1].sum(), 12 * share, rtol=1e-5)
    assert np.all(np.diff(told["leading_weights"][1]) <= 0)
    assert "mean_log_probability" not in told


@pytest.mark.parametrize(
    ("coefficients", "late_start"),
    [
        (None, 50),
        (lambda step: {}, 50),
        (lambda step: {"q": 0.7}, 50),
        (lambda step: {"q": 1.0}, 50),
        (lambda step: {"q": 0.5 + 0.01 * step}, 50),
        (lambda step: {"q": 0.9 + 0.01 * step}, 10),
    ],
)
def test_the_late_part_begins_when_q_passes_1_or_at_half_time(coefficients, late_start):
    phases = dynamics.make_phases(100, 10, coefficients)
    assert abs(phases.late_start - late_start) <= 1  # 0.9 + 0.01 * 10 may round
    assert (phases.steps_per_column, phases.columns) == (10, 10)


def test_long_runs_share_columns_and_no_step_falls_outside():
    phases = dynamics.make_phases(700, 100)
    assert (phases.steps_per_column, phases.columns) == (14, 50)
    assert 699 // phases.steps_per_column == phases.columns - 1
    assert dynamics.make_phases(0, 0).columns == 1
