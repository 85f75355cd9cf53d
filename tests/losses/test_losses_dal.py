"""Dynamics-Aware Loss and its special cases against their definitions."""

import functools
import math
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from dal_jax import dal_loss, dal_objective, dal_schedule
from dal_jax.losses import ce, gce, mae

Q = np.array([1e-6, 0.1, 0.6, 1.0, 1.2, 1.5, 2.0])
WEIGHTS = np.maximum(0, Q - 1)
CLASSES = (2, 10, 1000)
TESTS = Path(__file__).parents[1]

every_k = pytest.mark.parametrize("num_classes", CLASSES)


def example(num_classes, batch=6, scale=2.0, seed=0):
    rng = np.random.default_rng([seed, num_classes])
    logits = rng.normal(0, scale, (batch, num_classes))
    return logits, rng.integers(num_classes, size=batch)


@functools.partial(jax.jit, static_argnames="bootstrap")
def objective(logits, labels, q, weight, bootstrap="soft"):
    """Compiled once for every q."""
    return dal_objective(logits, labels, q, weight, bootstrap=bootstrap)


def summed(logits, labels, q, weight, **options):
    return objective(logits, labels, q, weight, **options).sum()


@jax.jit
def compiled(logits, labels, q, weight):
    def one(q, weight):
        value, back = jax.vjp(lambda z: dal_objective(z, labels, q, weight), logits)
        return value, back(jnp.ones_like(value))[0]

    return jax.vmap(one)(q, weight)


def value_and_gradient(*arguments):
    """Those of every q, along a new first axis."""
    return tuple(map(np.asarray, compiled(*arguments)))


@every_k
def test_equals_the_golden_table(num_classes, x64):
    table = np.load(TESTS / "golden" / "dal.npz")
    at = {key: table[f"K{num_classes}::{key}"] for key in ("logits", "labels")}
    value, gradient = value_and_gradient(
        at["logits"], at["labels"], table["q"], table["bootstrap_weight"]
    )
    # (1 - p ** q) / q of the table itself is rounded to about 1e-16 / q.
    rounding = 1e-12 + 4e-16 / table["q"][:, None]
    assert np.all(np.abs(value - table[f"K{num_classes}::value"]) < rounding)
    expected = table[f"K{num_classes}::gradient"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-14)


def released():
    return np.load(TESTS / "golden" / "released.npz")  # see make_released.py


def released_parameters(key):
    return [float(part.split("=")[1]) for part in key.split("|")[1].split(",")]


@pytest.mark.parametrize("spread", ["0.5", "3.0", "12.0"])
@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_gce_and_dal_equal_the_released_code(num_classes, spread, x64):
    table = released()
    setting = f"K{num_classes}_s{spread}"
    logits, labels = table[f"{setting}::logits"], table[f"{setting}::labels"]
    log_p = scipy.special.log_softmax(logits, -1)
    p = np.exp(log_p)
    unclamped = p[np.arange(len(labels)), labels] > 1e-5
    keys = [
        key.removesuffix("::value")
        for key in table
        if key.startswith((f"{setting}::gce", f"{setting}::dal"))
        and key.endswith("::value")
    ]
    assert len(keys) == 11
    parameters = [released_parameters(key) for key in keys]
    qs = np.array([q for q, *_ in parameters])
    weights = np.array([sum(weight) for _, *weight in parameters])
    values, gradients = value_and_gradient(logits, labels, qs, weights)
    # The released entropy has log(p + 1e-6); its difference, written out.
    shift = -(p * (np.log(p + 1e-6) - log_p)).sum(-1)
    assert np.all(np.abs(shift) <= 1e-6 * num_classes)
    in_log = np.log(p + 1e-6) + p / (p + 1e-6) - log_p
    d_shift = -p * (in_log - (p * in_log).sum(-1, keepdims=True))
    scales = weights / (qs * math.log(num_classes))
    for key, scale, value, gradient in zip(
        keys, scales, values, gradients, strict=True
    ):
        np.testing.assert_allclose(
            (value + scale * shift)[unclamped],
            table[f"{key}::value"][unclamped],
            atol=1e-9,
        )
        np.testing.assert_allclose(
            (gradient + scale * d_shift)[unclamped],
            table[f"{key}::grad"][unclamped],
            atol=1e-9,
        )


@every_k
def test_limits_are_cross_entropy_and_mean_absolute_error(num_classes):
    @jax.jit
    def results(logits, labels, smooth, q):
        near_zero = jax.vmap(lambda q: dal_objective(logits, labels, q, 0.0))(q)
        cross_entropies = ce(logits, labels), ce(logits, smooth)
        of_optax = (
            optax.softmax_cross_entropy_with_integer_labels(logits, labels),
            optax.softmax_cross_entropy(logits, smooth),
        )
        absolute = gce(logits, labels, q=1), mae(logits, labels)
        return near_zero, cross_entropies, of_optax, absolute

    logits, labels = example(num_classes)
    smooth = 0.8 * np.eye(num_classes)[labels] + 0.2 / num_classes
    near_zero, cross_entropies, of_optax, absolute = jax.tree.map(
        np.asarray, results(logits, labels, smooth, np.array([0.0, 1e-12, 1e-6]))
    )
    for value in near_zero:
        np.testing.assert_allclose(value, of_optax[0], rtol=1e-5)
    np.testing.assert_allclose(cross_entropies[0], of_optax[0], rtol=1e-6)
    np.testing.assert_allclose(cross_entropies[1], of_optax[1], rtol=1e-5)
    for value in absolute:
        np.testing.assert_allclose(value, 1 - np.exp(-of_optax[0]), atol=1e-6)


def test_q_zero_is_exact_and_differentiable_by_q(x64):
    logits, labels = example(10)

    @jax.jit
    def derivatives(q):
        def value(q):
            return gce(logits, labels, q=q)

        slope = jax.jacfwd(value)
        return value(q), slope(q), jax.jacfwd(slope)(q)

    expected = jax.jit(ce)(logits, labels)
    np.testing.assert_array_equal(derivatives(0.0)[0], expected)
    # Bootstrapping is over q, and off at q = 0.
    np.testing.assert_array_equal(objective(logits, labels, 0.0, 0.5), expected)
    log_p = scipy.special.log_softmax(logits, -1)[np.arange(len(labels)), labels]
    for q in (0.0, 1e-9, 1e-4):
        _, slope, curvature = derivatives(q)
        np.testing.assert_allclose(slope, -(log_p**2) / 2, rtol=1e-3)
        np.testing.assert_allclose(curvature, -(log_p**3) / 3, rtol=1e-3)


@every_k
def test_gradient_is_the_closed_form(num_classes, x64):
    logits, labels = example(num_classes)
    _, gradient = value_and_gradient(logits, labels, Q, np.full(len(Q), 0.7))
    log_p = scipy.special.log_softmax(logits, -1)
    p, given = np.exp(log_p), np.eye(num_classes)[labels]
    p_y = np.sum(given * p, -1, keepdims=True)
    entropy = -np.sum(p * log_p, -1, keepdims=True)
    for q, found in zip(Q, gradient, strict=True):
        scaled = 0.7 / (q * math.log(num_classes))
        expected = p_y**q * (p - given) - scaled * p * (log_p + entropy)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.sum(-1), 0, atol=1e-9)


@pytest.mark.parametrize("bootstrap", ["soft", "hard"])
def test_derivatives_to_second_order_by_differences(bootstrap, x64):
    logits, labels = example(10, batch=2)
    direction = example(10, batch=2, seed=1)[0]

    @jax.jit
    def derivatives(logits, q, weight):
        at = functools.partial(summed, labels=labels, q=q, weight=weight)
        along = functools.partial(at, bootstrap=bootstrap)
        slope = jax.grad(along)
        value, forward = jax.jvp(along, (logits,), (direction,))
        gradient, product = jax.jvp(slope, (logits,), (direction,))
        back = jax.vjp(slope, logits)[1](direction)[0]
        return value, gradient, forward, product, back

    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
    step = 1e-6 * direction
    for q, weight in zip(Q, WEIGHTS, strict=True):
        _, gradient, forward, product, back = derivatives(logits, q, weight)
        ahead = derivatives(logits + step, q, weight)
        behind = derivatives(logits - step, q, weight)
        close(forward, (ahead[0] - behind[0]) / 2e-6, rtol=1e-5)
        close(forward, np.vdot(gradient, direction))
        close(product, (ahead[1] - behind[1]) / 2e-6, rtol=1e-5, atol=1e-8)
        close(product, back)


@pytest.mark.parametrize("soft", [False, True], ids=["integers", "distributions"])
def test_second_derivatives_by_parameters_too(soft, x64):
    logits, labels = example(3, batch=2)
    targets = scipy.special.softmax(logits[::-1], -1) if soft else np.eye(3)[labels]

    def plain(logits, q, weight, targets):
        log_p = jax.nn.log_softmax(logits)
        fit = jnp.sum(targets * (1 - jnp.exp(q * log_p)) / q, -1)
        extra = entropy_of(log_p) / math.log(3)
        return jnp.sum(fit + weight * extra / q)

    def ours(logits, q, weight, targets):
        return summed(logits, targets if soft else labels, q, weight)

    def derivatives(loss):
        by = (0, 1, 2, 3) if soft else (0, 1, 2)

        def gradient(*args):
            found = jax.grad(loss, by)(*args)
            return found, found

        both = jax.jit(jax.jacfwd(gradient, by, has_aux=True))
        return both(logits, 1.3, 0.5, targets)

    chex.assert_trees_all_close(derivatives(ours), derivatives(plain), rtol=1e-9)


def entropy_of(log_p):
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)


@every_k
@pytest.mark.parametrize("bootstrap", ["soft", "hard"])
def test_hessian_products_equal_plain_autodiff(num_classes, bootstrap, x64):
    logits, labels = example(num_classes)
    direction = example(num_classes, seed=1)[0]

    def plain(logits):
        log_p = jax.nn.log_softmax(logits)
        fit = (1 - jnp.exp(1.3 * log_p[jnp.arange(len(labels)), labels])) / 1.3
        extra = entropy_of(log_p) if bootstrap == "soft" else -jnp.max(log_p, -1)
        return jnp.sum(fit + 0.5 * extra / 1.3 / math.log(num_classes))

    def ours(logits):
        return summed(logits, labels, 1.3, 0.5, bootstrap=bootstrap)

    @jax.jit
    def products(logits):
        expected = jax.jvp(jax.grad(plain), (logits,), (direction,))[1]
        _, linear = jax.linearize(jax.grad(ours), logits)
        (back,) = jax.linear_transpose(linear, logits)(direction)
        return expected, linear(direction), back

    expected, *actual = products(logits)
    assert np.abs(expected).max() > 1e-5
    for product in actual:
        np.testing.assert_allclose(product, expected, rtol=1e-9, atol=1e-13)


@every_k
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 0.3, 3.0, 30.0]))
def test_bounds(num_classes, seed, scale):
    logits = example(num_classes, batch=1, scale=scale, seed=seed)[0][0]
    results = map(np.asarray, over_all_labels(logits, Q))
    for q, each, bootstrap in zip(Q, *results, strict=True):
        k = num_classes
        low, high = sorted([(k - k ** (1 - q)) / q, (k - 1) / q])
        assert low * (1 - 2e-5) <= each.sum() <= high * (1 + 2e-5)
        assert np.all(each >= 0)
        assert np.all(each <= 1 / q * (1 + 1e-6))
        assert -1e-5 / q <= bootstrap <= 1 / q * (1 + 1e-5)


@jax.jit
def over_all_labels(logits, qs):
    """For each q: the loss for each label, and what bootstrapping adds."""

    def at(q):
        each = jax.vmap(lambda y: gce(logits, y, q=q))(jnp.arange(logits.size))
        zeros = jnp.zeros_like(logits)
        return each, dal_objective(logits, zeros, q, 1.0)

    return jax.vmap(at)(qs)


def test_weight_of_an_example(x64):
    p_y = np.linspace(0.05, 0.95, 10)
    logits = np.stack([np.log(p_y), np.log1p(-p_y)], -1)
    _, gradients = value_and_gradient(logits, np.zeros(10, int), Q, 0 * Q)
    for q, gradient in zip(Q, gradients, strict=True):
        # d p_y / d z_y = p_y (1 - p_y) turns it into the derivative by p_y.
        weight = -gradient[:, 0] / (p_y * (1 - p_y))
        np.testing.assert_allclose(weight, p_y ** (q - 1), rtol=1e-9)
        steps = np.diff(weight)
        if q == 1:
            np.testing.assert_allclose(steps, 0, atol=1e-12)
        else:
            assert np.all(steps < 0 if q < 1 else steps > 0)


@every_k
@pytest.mark.parametrize("bootstrap", ["soft", "hard"])
def test_bootstrapping_lies_between_certain_and_uniform(num_classes, bootstrap):
    certain = 1e4 * np.eye(num_classes)[1]
    uniform = np.full(num_classes, 3.0)

    def term(logits):
        at = functools.partial(objective, logits, 1, 1.2, bootstrap=bootstrap)
        return float(at(1.0)) - float(at(0.0))

    assert term(certain) == 0
    np.testing.assert_allclose(term(uniform), 1 / 1.2, rtol=1e-5)


def test_hard_bootstrapping_takes_the_argmax_for_a_constant(x64):
    logits, labels = example(10)
    own = np.eye(10)[logits.argmax(-1)]
    scaled = 0.5 / (1.2 * math.log(10))

    def expected(z):
        fit = gce(z, labels, q=1.2)
        return jnp.sum(fit + scaled * optax.softmax_cross_entropy(z, own))

    def hard(z):
        return summed(z, labels, 1.2, 0.5, bootstrap="hard")

    @jax.jit
    def both(logits):
        return [jax.value_and_grad(loss)(logits) for loss in (hard, expected)]

    (value, gradient), (wanted, wanted_gradient) = both(logits)
    np.testing.assert_allclose(value, wanted)
    np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-12)


def test_a_hopeless_example_keeps_its_gradient(x64):
    logits = np.array([[0.0, math.log(1e30)]])
    _, gradient = value_and_gradient(logits, np.array([0]), Q, 0 * Q)
    expected = np.exp(-Q * math.log(1e30))
    wanted = np.stack([-expected, expected], -1)[:, None]
    np.testing.assert_allclose(gradient, wanted, rtol=1e-9)
    assert np.all(expected > 0)


@every_k
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_finite_at_extreme_logits(num_classes, dtype):
    signs = np.random.default_rng(0).choice([-1e4, 0.0, 1e4], (8, num_classes))
    logits = signs.astype(dtype)
    value, gradient = value_and_gradient(logits, np.zeros(8, int), Q, WEIGHTS)
    assert np.all(np.isfinite(value))
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert np.all(np.isfinite(gradient.astype(np.float32)))


value_and_gradient_of_sum = jax.jit(jax.value_and_grad(summed))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(dtype):
    logits, labels = example(1000, batch=5)
    logits = logits.astype(np.float32).astype(dtype)
    value, gradient = value_and_gradient_of_sum(logits, labels, 1.2, 0.5)
    exact, exact_gradient = value_and_gradient_of_sum(
        logits.astype(np.float32), labels, 1.2, 0.5
    )
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    # Rounded once, at the end: by half of the last place at most, or a little more
    # where the two programs differ in the last bits of single precision.
    info = jnp.finfo(dtype)
    steps = np.maximum(info.eps * np.abs(exact_gradient), info.smallest_subnormal)
    error = np.abs(gradient.astype(np.float32) - exact_gradient)
    assert np.all(error <= 0.51 * steps)


def test_one_trace_for_many_steps():
    logits, labels = example(10)
    loss = functools.partial(dal_loss, schedule=dal_schedule(100))
    traced = jax.jit(
        jax.grad(
            chex.assert_max_traces(lambda z, step: loss(z, labels, step).sum(), n=1)
        )
    )
    gradients = [np.asarray(traced(logits, step)) for step in (0, 30, 60, 100, 1000)]
    assert not np.array_equal(gradients[0], gradients[1])
    np.testing.assert_array_equal(gradients[3], gradients[4])


def test_equal_under_jit_vmap_and_scan():
    logits, labels = example(10)
    eager = np.stack(
        [dal_objective(logits, labels, *at) for at in zip(Q, WEIGHTS, strict=True)]
    )
    expected = {
        "jit": eager[4],
        "vmap over parameters": eager,
        "vmap over examples": eager[4],
        "scan": eager,
        "of each example its own": np.diagonal(eager),
    }

    @jax.jit
    def transformed(logits, labels, qs, weights):
        one = qs[4], weights[4]
        of_labels = functools.partial(dal_objective, logits, labels)
        by_example = jax.vmap(dal_objective, (0, 0, None, None))
        scan = jax.lax.scan(lambda _, at: (None, of_labels(*at)), None, (qs, weights))
        return {
            "jit": of_labels(*one),
            "vmap over parameters": jax.vmap(of_labels)(qs, weights),
            "vmap over examples": by_example(logits, labels, *one),
            "scan": scan[1],
            "of each example its own": of_labels(qs[:6], weights[:6]),
        }

    for what, actual in transformed(logits, labels, Q, WEIGHTS).items():
        np.testing.assert_allclose(
            actual, expected[what], rtol=2e-6, atol=1e-7, err_msg=what
        )


def test_dal_loss_is_the_objective_at_the_schedule():
    logits, labels = example(10)
    loss = jax.jit(dal_loss)
    for step, (q, weight) in {0: (0.6, 0.0), 10**6: (1.494, 0.988)}.items():
        np.testing.assert_allclose(
            loss(logits, labels, step), objective(logits, labels, q, weight), rtol=1e-5
        )


@pytest.mark.parametrize("loss", [dal_objective, dal_loss, gce, mae, ce])
def test_says_which_argument_does_not_fit(loss):
    more = {dal_objective: (1.2, 0.5), dal_loss: (0,)}.get(loss, ())
    logits, labels = example(10)
    wrong = [
        ("logits", (labels, labels)),
        ("integer labels", (logits, labels[:3])),
        ("integer labels", (logits, np.zeros((6, 10), int))),
        ("labels as distributions", (logits, np.zeros(6))),
        ("labels", (logits, labels > 1)),
    ]
    for name, arguments in wrong:
        with pytest.raises(AssertionError, match=rf"(?s)\b{name}\b"):
            jax.eval_shape(loss, *arguments, *more)
    for where, words in ((np.ones(4, bool), "where"), (np.ones(6), "expected bool")):
        with pytest.raises(AssertionError, match=words):
            jax.eval_shape(functools.partial(loss, where=where), logits, labels, *more)


def test_refuses_an_unknown_bootstrap_and_a_single_class():
    logits, labels = example(10)
    with pytest.raises(ValueError, match="unknown bootstrap 'sotf': did you mean"):
        dal_objective(logits, labels, 1.2, 0.5, bootstrap="sotf")
    with pytest.raises(AssertionError, match="two classes"):
        dal_objective(logits[:, :1], labels * 0, 1.2, 0.5)
