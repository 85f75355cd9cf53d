"""Limits of the hyper-parameters, and the symmetry that theory claims."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from dal_jax import losses
from dal_jax.losses.negative import _log_complement

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 2, (40, 6))
LABELS = RNG.integers(6, size=40)


def value_and_gradient(function, **options):
    @jax.jit
    def both():
        value, back = jax.vjp(lambda z: function(z, LABELS, **options), LOGITS)
        return value, back(jnp.ones_like(value))[0]

    value, gradient = both()
    return np.stack([value, *np.asarray(gradient).T])


# In float64, of the functions that several others are compared with.
kept_value_and_gradient = functools.cache(value_and_gradient)

CE, MAE = losses.ce, losses.mae
GCE = losses.gce
LIMITS = {
    "sce without its second term": (losses.sce, {"alpha": 1, "beta": 0}, CE, 1, 1e-12),
    "sce without its first term": (
        losses.sce,
        {"alpha": 0, "beta": 1},
        MAE,
        -np.log(1e-4),
        1e-12,
    ),
    "taylor of order 1": (losses.taylor_ce, {"order": 1}, MAE, 1, 1e-12),
    "agce at q = 1": (losses.agce, {"a": 2.0, "q": 1.0}, MAE, 1, 1e-12),
    "agce at a = 0": (losses.agce, {"a": 0.0, "q": 0.7}, GCE, 1, 1e-12),
    "agce at a = q = 0": (losses.agce, {"a": 0.0, "q": 0.0}, CE, 1, 1e-12),
    "aul at q = 1": (losses.aul, {"a": 3.0, "q": 1.0}, MAE, 1, 1e-12),
    "focal at 0": (losses.focal, {"gamma": 0.0}, CE, 1, 1e-12),
    "nfl at 0": (losses.nfl, {"gamma": 0.0}, losses.nce, 1, 1e-12),
    "phuber at 1": (losses.phuber_ce, {"tau": 1.0}, MAE, 1, 1e-12),
    "phuber of large tau": (losses.phuber_ce, {"tau": 1e9}, CE, 1, 1e-12),
    "js near 0": (losses.js, {"pi": 1e-7}, CE, 1, 1e-4),
    "js near 1": (losses.js, {"pi": 1 - 1e-12}, MAE, 1, 0.1),
    "bi_tempered at 1": (losses.bi_tempered, {"t1": 1.0, "t2": 1.0}, CE, 1, 1e-12),
    "bi_tempered near 1": (
        losses.bi_tempered,
        {"t1": 1 - 1e-7, "t2": 1 + 1e-7, "num_iters": 1},
        CE,
        1,
        1e-5,
    ),
    "soft bootstrapping at 1": (losses.soft_bootstrapping, {"beta": 1}, CE, 1, 1e-12),
    "hard bootstrapping at 1": (losses.hard_bootstrapping, {"beta": 1}, CE, 1, 1e-12),
    "forward at no noise": (losses.forward_correction, {"noise_rate": 0}, CE, 1, 1e-12),
    "backward at no noise": (
        losses.backward_correction,
        {"noise_rate": 0},
        CE,
        1,
        1e-12,
    ),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limit(case, x64):
    function, options, limit, factor, tolerance = LIMITS[case]
    expected = factor * kept_value_and_gradient(limit)
    actual = value_and_gradient(function, **options)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_ael_of_large_a_is_linear_in_mae(x64):
    a = 1e6
    linear = a * (value_and_gradient(losses.ael, a=a)[0] - 1) + 1
    np.testing.assert_allclose(linear, kept_value_and_gradient(MAE)[0], atol=1e-5)


def test_taylor_of_high_order_is_cross_entropy(x64):
    log_p = scipy.special.log_softmax(LOGITS, -1)[np.arange(40), LABELS]
    series = jax.jit(functools.partial(losses.taylor_ce, order=300))(LOGITS, LABELS)
    easy = np.exp(log_p) > 0.2
    np.testing.assert_allclose(np.asarray(series)[easy], -log_p[easy], rtol=1e-9)


def test_ce_sr_without_its_norm_is_cross_entropy_of_normalised_logits(x64):
    norm = np.linalg.norm(LOGITS, axis=-1, keepdims=True)
    options = {"temperature": 0.3, "regularization_weight": 0}
    actual = jax.jit(functools.partial(losses.ce_sr, **options))(LOGITS, LABELS)
    log_p = scipy.special.log_softmax(LOGITS / norm / 0.3, -1)
    np.testing.assert_allclose(actual, -log_p[np.arange(40), LABELS], rtol=1e-12)


def test_ce_sr_of_zero_logits_pushes_the_label_up(x64):
    gradient = jax.jit(jax.grad(lambda z: losses.ce_sr(z, 2)))(np.zeros(4))
    np.testing.assert_allclose(gradient, [0.5, 0.5, -1.5, 0.5], atol=1e-12)


def test_ce_sr_is_exact_at_every_temperature():
    temperatures = np.array([1e-3, 1e-2, 0.033, 0.034, 0.5, 10])[:, None, None]
    norm = np.linalg.norm(LOGITS, axis=-1, keepdims=True)
    scaled = LOGITS / norm / temperatures
    log_p = scaled - scipy.special.logsumexp(scaled, -1, keepdims=True)
    p, powers = np.exp(log_p), np.exp(0.1 * log_p)
    power_sum = powers.sum(-1, keepdims=True)
    expected = -log_p[:, np.arange(40), LABELS] + 1.2 * power_sum[..., 0]
    slopes = p - np.eye(6)[LABELS] + 0.12 * (powers - p * power_sum)
    radial = (slopes * LOGITS).sum(-1, keepdims=True) * LOGITS / norm**2
    gradients = (slopes - radial) / norm / temperatures

    def value_and_gradient(temperature):
        def total(z):
            loss = losses.ce_sr(z, LABELS, temperature=temperature)
            return loss.sum(), loss

        return jax.grad(total, has_aux=True)(LOGITS.astype(np.float32))[::-1]

    traced = jnp.asarray(temperatures.ravel(), jnp.float32)
    loss, gradient = jax.jit(jax.vmap(value_and_gradient))(traced)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)
    np.testing.assert_allclose(
        gradient * temperatures, gradients * temperatures, atol=2e-5
    )


SYMMETRIC = {
    "mae": (losses.mae, lambda k: k - 1),
    "rce": (losses.rce, lambda k: -np.log(1e-4) * (k - 1)),
    "nce": (losses.nce, lambda k: 1),
    "nfl": (losses.nfl, lambda k: 1),
    "nnce": (losses.nnce, lambda k: k - 1),
    "nce_rce": (losses.nce_rce, lambda k: 1 - np.log(1e-4) * (k - 1)),
}


@functools.cache
def over_all_labels(name):
    function, _ = SYMMETRIC[name]
    return jax.jit(lambda z: function(jnp.tile(z, (7, 1)), jnp.arange(7)).sum())


@pytest.mark.parametrize("name", SYMMETRIC)
@settings(max_examples=30, deadline=None)
@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=7, max_size=7),
    first=st.integers(2, 7),
)
def test_the_sum_over_all_labels_is_constant(name, logits, first):
    # The rest is far below, so one shape serves predictions over fewer classes too.
    logits = np.where(np.arange(7) < first, logits, -40.0).astype(np.float32)
    total = SYMMETRIC[name][1](7)
    np.testing.assert_allclose(over_all_labels(name)(logits), total, rtol=1e-5)


def test_asymmetric_losses_are_no_constant_sums():
    def sums(row):
        functions = (losses.ce, losses.gce, losses.agce, losses.js)
        rows, labels = jnp.tile(row, (6, 1)), jnp.arange(6)
        return jnp.stack([function(rows, labels).sum() for function in functions])

    first, second = jax.jit(jax.vmap(sums))(LOGITS[:2])
    assert np.all(np.abs(first - second) > 1e-2)


def plain_log_complement(logits):
    def without(n):
        rest = jnp.where(jnp.arange(logits.size) == n, -jnp.inf, logits)
        return jax.nn.logsumexp(rest) - jax.nn.logsumexp(logits)

    return jax.vmap(without)(jnp.arange(logits.size))


def log_complement(logits):
    return _log_complement(logits, jnp.arange(logits.size), 0)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(function, logits):
    """Value, Jacobian and its derivative."""

    def first(logits):
        slopes = jax.jacobian(function)(logits)
        return slopes, (function(logits), slopes)

    second, (value, slopes) = jax.jacfwd(first, has_aux=True)(logits)
    return value, slopes, second


@pytest.mark.parametrize(
    "top", [[0.5], [20.0], [80.0], [500.0], [2.0, 2.0], [900.0] * 2]
)
def test_the_logarithm_of_the_complement_is_exact(top, x64):
    # Of a class that is sure, tied with another, or neither, and of all others.
    logits = np.array([*top, 0.0, -1.0, 0.0, -2.0][:5])
    *expected, expected_curvature = derivatives(plain_log_complement, logits)
    *results, curvature = derivatives(log_complement, logits)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(curvature, expected_curvature, atol=1e-12)
    narrow = derivatives(log_complement, logits.astype(np.float32))[1]
    spacing = np.finfo(np.float32).eps * max(top)  # of the logits themselves
    np.testing.assert_allclose(narrow, expected[1], atol=1e-6 + spacing)


@pytest.mark.parametrize("num_negatives", [1, 3])
def test_negative_learning_of_two_classes_is_cross_entropy(num_negatives):
    # The only complementary label of two is the other one.
    logits, labels = LOGITS[:, :2].astype(np.float32), LABELS % 2

    def total(z):
        key = jax.random.key(0)
        values = losses.nlnl(z, labels, key, num_negatives=num_negatives)
        return values.sum(), values

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(logits)
    log_p = scipy.special.log_softmax(logits, -1)
    np.testing.assert_allclose(value, -log_p[np.arange(40), labels], rtol=1e-4)
    np.testing.assert_allclose(gradient, np.exp(log_p) - np.eye(2)[labels], atol=1e-5)


def test_negative_labels_are_uniform_over_the_others_and_weighted():
    logits, labels = LOGITS[:3], LABELS[:3]
    key = jax.random.key(1)
    p = scipy.special.softmax(logits, -1)
    others = np.arange(6) != labels[:, None]
    nlnl = jax.jit(losses.nlnl, static_argnames="num_negatives")
    many = nlnl(logits, labels, key, num_negatives=5_000)
    expected = np.where(others, -np.log1p(-p), 0).sum(-1) / 5
    np.testing.assert_allclose(many, expected, rtol=0.1)
    weights = np.eye(6)[labels[0]]
    weighted = np.asarray(
        nlnl(logits, labels, key, num_negatives=50, class_weights=weights)
    )
    assert weighted[0] == 0  # the given label is never drawn
    assert weighted[labels != labels[0]].min() > 0


def test_corrections_by_a_uniform_matrix_equal_those_by_its_rate(x64):
    matrix = 0.7 * np.eye(6) + 0.3 / 6
    for function in (losses.forward_correction, losses.backward_correction):
        by_matrix = value_and_gradient(function, transition_matrix=matrix)
        by_rate = value_and_gradient(function, noise_rate=0.3)
        np.testing.assert_allclose(by_matrix, by_rate, rtol=1e-10, atol=1e-12)


def test_the_backward_correction_is_unbiased(x64):
    matrix = 0.6 * np.eye(6) + 0.4 * RNG.dirichlet(np.ones(6), 6)

    @jax.jit
    def of_label(label):
        labels = jnp.full(40, label)
        return losses.backward_correction(LOGITS, labels, transition_matrix=matrix)

    every = np.array([of_label(label) for label in range(6)])
    mean = np.einsum("kb,bk->b", every, matrix[LABELS])
    np.testing.assert_allclose(mean, kept_value_and_gradient(CE)[0], rtol=1e-10)


def test_forward_correction_survives_impossible_transitions():
    matrix = np.eye(3, dtype=np.float32)[[1, 0, 2]]
    logits = np.array([[1e4, 0.0, 0.0], [0.0, 1e4, 0.0]])

    def total(z):
        loss = losses.forward_correction(z, np.ones(2, int), transition_matrix=matrix)
        return loss.sum(), loss

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(logits)
    np.testing.assert_allclose(value, [0, 1e4])
    assert np.all(np.isfinite(gradient))


def test_elr_targets_stay_below_one():
    logits, update = np.array([[1e4, 0.0, 0.0]]), jax.jit(losses.elr_targets)
    targets = np.zeros((1, 3))
    for _ in range(200):
        targets = update(logits, targets)
    assert 1e-5 < 1 - targets.max() < 1e-3

    def total(z):
        return losses.elr(z, np.zeros(1, int), targets).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", ["hard_bootstrapping", "bi_tempered"])
@pytest.mark.parametrize("num_classes", [4, 512])
def test_equal_largest_logits_share_the_gradient_of_the_maximum(name, num_classes, x64):
    logits = np.where(np.arange(num_classes) == 3, -1.0, 0.0)
    few = {"num_iters": 1} if name == "bi_tempered" else {}  # compiled sooner

    def loss(z):
        return getattr(losses, name)(z, 3, **few)

    gradient = np.asarray(jax.jit(jax.grad(loss))(logits))
    np.testing.assert_allclose(gradient.sum(), 0, atol=1e-12)
    np.testing.assert_allclose(gradient[:3], gradient[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("sce", (CE, losses.rce)),
        ("nce_rce", (losses.nce, losses.rce)),
        ("nce_agce", (losses.nce, losses.agce)),
        ("anl_ce", (losses.nce, losses.nnce)),
    ],
)
def test_sums_of_two_losses(name, parts, x64):
    own = {losses.agce: {"a": 0.4, "q": 1.7}, losses.nnce: {"min_probability": 0.02}}
    first, second = (
        kept_value_and_gradient(part, **own.get(part, {})) for part in parts
    )
    actual = value_and_gradient(
        getattr(losses, name), alpha=0.7, beta=2.5, **own.get(parts[1], {})
    )
    np.testing.assert_allclose(actual, 0.7 * first + 2.5 * second, rtol=1e-12)


elr_targets = jax.jit(functools.partial(losses.elr_targets, beta=0.9))


@pytest.mark.parametrize("sharpness", [0.25, 1, 5, 100])
def test_elr_targets_are_a_running_mean_of_the_bounded_predictions(sharpness, x64):
    before, logits = RNG.dirichlet(np.ones(6), 40), sharpness * LOGITS
    targets = elr_targets(logits, before)
    bounded = np.clip(scipy.special.softmax(logits, -1), 1e-4, 1 - 1e-4)
    bounded /= bounded.sum(-1, keepdims=True)
    np.testing.assert_allclose(targets, 0.9 * before + 0.1 * bounded, rtol=1e-12)
