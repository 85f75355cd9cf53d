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
from hypothesis import given, settings
from hypothesis import strategies as st

from dal_jax import dal_loss, dal_objective, dal_schedule
from dal_jax.losses import ce, gce, mae

Q = (1e-6, 0.1, 0.6, 1.0, 1.2, 1.5, 2.0)
CLASSES = (2, 10, 1000)
TESTS = Path(__file__).parents[1]

every_q = pytest.mark.parametrize("q", Q)
every_k = pytest.mark.parametrize("num_classes", CLASSES)


def weight_of(q):
    return max(0.0, q - 1)


def example(num_classes, batch=5, scale=2.0, seed=0, dtype=None):
    rng = np.random.default_rng([seed, num_classes])
    logits = jnp.asarray(rng.normal(0, scale, (batch, num_classes)), dtype)
    return logits, jnp.asarray(rng.integers(num_classes, size=batch))


@functools.partial(jax.jit, static_argnames="bootstrap")
def objective(logits, labels, q, weight, bootstrap="soft"):
    """Compiled once for every q."""
    return dal_objective(logits, labels, q, weight, bootstrap=bootstrap)


def summed(logits, labels, q, weight, **options):
    return objective(logits, labels, q, weight, **options).sum()


gradient_of = jax.jit(jax.grad(summed), static_argnames="bootstrap")


@jax.jit
def value_and_gradient(logits, labels, q, weight):
    def one(q, weight):
        value, back = jax.vjp(lambda z: dal_objective(z, labels, q, weight), logits)
        return value, back(jnp.ones_like(value))[0]

    return jax.vmap(one)(q, weight)


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


@pytest.mark.parametrize("scale", ["0.5", "3.0", "12.0"])
@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_gce_and_dal_equal_the_released_code(num_classes, scale, x64):
    table = released()
    setting = f"K{num_classes}_s{scale}"
    logits, labels = table[f"{setting}::logits"], table[f"{setting}::labels"]
    p = np.exp(jax.nn.log_softmax(logits))
    unclamped = p[np.arange(len(labels)), labels] > 1e-5
    compared = 0
    for key in table:
        if not key.startswith((f"{setting}::gce", f"{setting}::dal")):
            continue
        if not key.endswith("::value"):
            continue
        q, *weight = released_parameters(key.removesuffix("::value"))
        weight = jnp.array(weight[0] if weight else 0.0)
        value, gradient = (
            x[0]
            for x in value_and_gradient(logits, labels, jnp.array([q]), weight[None])
        )
        # The released entropy has log(p + 1e-6); its difference, written out.
        with np.errstate(divide="ignore"):
            shift = -(p * (np.log(p + 1e-6) - np.log(p))).sum(-1)
        scaled = weight / (q * math.log(num_classes))
        assert np.all(np.abs(shift) <= 1e-6 * num_classes)
        np.testing.assert_allclose(
            (value + scaled * shift)[unclamped], table[key][unclamped], atol=1e-9
        )
        in_log = np.log(p + 1e-6) + p / (p + 1e-6)
        d_shift = -p * (in_log - (p * in_log).sum(-1, keepdims=True))
        d_entropy = gradient_of_entropy(logits)
        np.testing.assert_allclose(
            (gradient + scaled * (d_shift - d_entropy))[unclamped],
            table[key.replace("::value", "::grad")][unclamped],
            atol=1e-9,
        )
        compared += 1
    assert compared == 11


def entropy_of(logits):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p)


gradient_of_entropy = jax.jit(jax.vmap(jax.grad(entropy_of)))


@every_k
def test_limits_are_cross_entropy_and_mean_absolute_error(num_classes):
    logits, labels = example(num_classes)
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    for q in (0.0, 1e-12, 1e-6):
        np.testing.assert_allclose(
            dal_objective(logits, labels, q, 0.0), expected, rtol=1e-5
        )
    np.testing.assert_allclose(ce(logits, labels), expected, rtol=1e-6)
    absolute = 1 - jnp.exp(-expected)
    np.testing.assert_allclose(gce(logits, labels, q=1), absolute, atol=1e-6)
    np.testing.assert_allclose(mae(logits, labels), absolute, atol=1e-6)
    smooth = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), 0.2)
    np.testing.assert_allclose(
        ce(logits, smooth), optax.softmax_cross_entropy(logits, smooth), rtol=1e-5
    )


def test_q_zero_is_exact_and_differentiable_by_q(x64):
    logits, labels = example(10)
    log_p = -optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_array_equal(gce(logits, labels, q=0.0), ce(logits, labels))
    slope = jax.jacfwd(lambda q: gce(logits, labels, q=q))
    slope, curvature = jax.jit(slope), jax.jit(jax.jacfwd(slope))
    for q in (0.0, 1e-9, 1e-4):
        np.testing.assert_allclose(slope(q), -(log_p**2) / 2, rtol=1e-3)
        np.testing.assert_allclose(curvature(q), -(log_p**3) / 3, rtol=1e-3)
    # Bootstrapping is over q, and off at q = 0.
    np.testing.assert_array_equal(
        dal_objective(logits, labels, 0.0, 0.0), ce(logits, labels)
    )


@every_q
@every_k
def test_gradient_is_the_closed_form(q, num_classes, x64):
    logits, labels = example(num_classes)
    gradient = gradient_of(logits, labels, q, 0.7)
    log_p = jax.nn.log_softmax(logits)
    p, given = jnp.exp(log_p), jax.nn.one_hot(labels, num_classes)
    p_y = jnp.sum(given * p, -1, keepdims=True)
    entropy = -jnp.sum(p * log_p, -1, keepdims=True)
    scaled = 0.7 / (q * math.log(num_classes))
    expected = p_y**q * (p - given) - scaled * p * (log_p + entropy)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient.sum(-1), np.zeros(5), atol=1e-9)


@pytest.mark.parametrize("bootstrap", ["soft", "hard"])
def test_derivatives_to_second_order_by_differences(bootstrap, x64):
    logits, labels = example(10, batch=2)
    direction = example(10, batch=2, seed=1)[0]
    gradient = functools.partial(gradient_of, bootstrap=bootstrap)

    @jax.jit
    def derivatives(logits, q, weight):
        at = functools.partial(summed, labels=labels, q=q, weight=weight)
        along = functools.partial(at, bootstrap=bootstrap)
        slope = jax.grad(along)
        value, forward = jax.jvp(along, (logits,), (direction,))
        product = jax.jvp(slope, (logits,), (direction,))[1]
        back = jax.vjp(slope, logits)[1](direction)[0]
        return value, forward, product, back

    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)
    for q in Q:
        weight, step = weight_of(q), 1e-6 * direction
        _, forward, product, back = derivatives(logits, q, weight)
        ahead = derivatives(logits + step, q, weight)[0]
        behind = derivatives(logits - step, q, weight)[0]
        close(forward, (ahead - behind) / 2e-6, rtol=1e-5)
        close(forward, jnp.vdot(gradient(logits, labels, q, weight), direction))
        ahead = gradient(logits + step, labels, q, weight)
        behind = gradient(logits - step, labels, q, weight)
        close(product, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)
        close(product, back)


@pytest.mark.parametrize("soft", [False, True], ids=["integers", "distributions"])
def test_second_derivatives_by_parameters_too(soft, x64):
    logits, labels = example(3, batch=2)
    targets = jax.nn.softmax(logits[::-1]) if soft else jax.nn.one_hot(labels, 3)

    def plain(logits, q, weight, targets):
        log_p = jax.nn.log_softmax(logits)
        fit = jnp.sum(targets * (1 - jnp.exp(q * log_p)) / q, -1)
        extra = jax.vmap(entropy_of)(logits) / math.log(3)
        return jnp.sum(fit + weight * extra / q)

    def ours(logits, q, weight, targets):
        return summed(logits, targets if soft else labels, q, weight)

    def derivatives(loss):
        by = (0, 1, 2, 3) if soft else (0, 1, 2)
        both = jax.grad(loss, by), jax.hessian(loss, by)
        return jax.jit(lambda *args: [f(*args) for f in both])(
            logits, 1.3, 0.5, targets
        )

    chex.assert_trees_all_close(derivatives(ours), derivatives(plain), rtol=1e-9)


@every_k
@pytest.mark.parametrize("bootstrap", ["soft", "hard"])
def test_hessian_products_equal_plain_autodiff(num_classes, bootstrap, x64):
    logits, labels = example(num_classes)
    direction = example(num_classes, seed=1)[0]

    def plain(logits):
        log_p = jax.nn.log_softmax(logits)
        fit = (1 - jnp.exp(1.3 * log_p[jnp.arange(5), labels])) / 1.3
        own = -jnp.max(log_p, -1)
        extra = jax.vmap(entropy_of)(logits) if bootstrap == "soft" else own
        return jnp.sum(fit + 0.5 * extra / 1.3 / math.log(num_classes))

    def ours(logits):
        return summed(logits, labels, 1.3, 0.5, bootstrap=bootstrap)

    def forward_over_reverse(f):
        return jax.jvp(jax.grad(f), (logits,), (direction,))[1]

    def reverse_over_reverse(f):
        return jax.grad(lambda z: jnp.vdot(jax.grad(f)(z), direction))(logits)

    expected = jax.jit(forward_over_reverse, static_argnums=0)(plain)
    assert np.abs(expected).max() > 1e-5
    for product in (forward_over_reverse, reverse_over_reverse):
        actual = jax.jit(product, static_argnums=0)(ours)
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-13)


@every_k
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([0.0, 0.3, 3.0, 30.0]))
def test_bounds(num_classes, seed, scale):
    logits = example(num_classes, batch=1, scale=scale, seed=seed)[0][0]
    for q, each, bootstrap in zip(Q, *over_all_labels(logits), strict=True):
        k = num_classes
        low, high = sorted([(k - k ** (1 - q)) / q, (k - 1) / q])
        assert low * (1 - 2e-5) <= float(each.sum()) <= high * (1 + 2e-5)
        assert np.all(each >= 0)
        assert np.all(each <= 1 / q * (1 + 1e-6))
        assert -1e-5 / q <= bootstrap <= 1 / q * (1 + 1e-5)


@jax.jit
def over_all_labels(logits):
    """For each q: the loss for each label, and what bootstrapping adds."""

    def at(q):
        each = jax.vmap(lambda y: gce(logits, y, q=q))(jnp.arange(logits.size))
        zeros = jnp.zeros_like(logits)
        return each, dal_objective(logits, zeros, q, 1.0)

    return jax.vmap(at)(jnp.array(Q))


@every_q
def test_weight_of_an_example(q, x64):
    p_y = jnp.linspace(0.05, 0.95, 10)
    logits = jnp.stack([jnp.log(p_y), jnp.log1p(-p_y)], -1)
    gradient = gradient_of(logits, jnp.zeros(10, int), q, 0.0)
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
    certain = jnp.zeros(num_classes).at[1].set(1e4)
    uniform = jnp.full(num_classes, 3.0)

    def term(logits, weight):
        return objective(logits, 1, 1.2, weight, bootstrap=bootstrap)

    assert term(certain, 1.0) - term(certain, 0.0) == 0
    np.testing.assert_allclose(
        term(uniform, 1.0) - term(uniform, 0.0), 1 / 1.2, rtol=1e-5
    )


def test_hard_bootstrapping_takes_the_argmax_for_a_constant(x64):
    logits, labels = example(10)
    own = jnp.argmax(logits, -1)
    scaled = 0.5 / (1.2 * math.log(10))

    def expected(z):
        fit = gce(z, labels, q=1.2)
        targets = jax.nn.one_hot(own, 10)
        return jnp.sum(fit + scaled * optax.softmax_cross_entropy(z, targets))

    hard = functools.partial(summed, bootstrap="hard")
    np.testing.assert_allclose(hard(logits, labels, 1.2, 0.5), expected(logits))
    gradient = jax.jit(jax.grad(hard))(logits, labels, 1.2, 0.5)
    wanted = jax.jit(jax.grad(expected))(logits)
    np.testing.assert_allclose(gradient, wanted, atol=1e-12)


@every_q
def test_a_hopeless_example_keeps_its_gradient(q, x64):
    logits = jnp.array([[0.0, math.log(1e30)]])
    gradient = gradient_of(logits, jnp.array([0]), q, 0.0)
    expected = np.exp(-q * math.log(1e30))
    np.testing.assert_allclose(gradient, [[-expected, expected]], rtol=1e-9)
    assert expected > 0


@every_q
@every_k
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_finite_at_extreme_logits(q, num_classes, dtype):
    signs = np.random.default_rng(0).choice([-1e4, 0.0, 1e4], (8, num_classes))
    logits = jnp.asarray(signs, dtype)
    labels = jnp.zeros(8, int)
    value = objective(logits, labels, q, weight_of(q))
    gradient = gradient_of(logits, labels, q, weight_of(q))
    assert np.all(np.isfinite(value))
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert np.all(np.isfinite(gradient.astype(jnp.float32)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_single(dtype):
    logits, labels = example(1000)
    logits = logits.astype(dtype)
    both = jax.jit(jax.value_and_grad(summed))
    value, gradient = both(logits, labels, 1.2, 0.5)
    exact, exact_gradient = both(logits.astype(jnp.float32), labels, 1.2, 0.5)
    assert value == exact
    np.testing.assert_array_equal(gradient, exact_gradient.astype(dtype))


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
    qs, weights = jnp.array(Q), jnp.array([weight_of(q) for q in Q])
    eager = jnp.stack(
        [dal_objective(logits, labels, q, w) for q, w in zip(qs, weights, strict=True)]
    )
    jitted = jax.jit(dal_objective)
    swept = jax.vmap(dal_objective, (None, None, 0, 0))(logits, labels, qs, weights)
    by_example = jax.vmap(dal_objective, (0, 0, None, None))(
        logits, labels, qs[4], weights[4]
    )
    _, scanned = jax.lax.scan(
        lambda _, pair: (None, dal_objective(logits, labels, *pair)),
        None,
        (qs, weights),
    )
    close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-7)
    close(jitted(logits, labels, qs[4], weights[4]), eager[4])
    close(swept, eager)
    close(by_example, eager[4])
    close(scanned, eager)
    # Of each example its own parameters.
    close(dal_objective(logits, labels, qs[:5], weights[:5]), jnp.diagonal(eager))


def test_dal_loss_is_the_objective_at_the_schedule():
    logits, labels = example(10)
    for step, (q, weight) in {0: (0.6, 0.0), 10**6: (1.494, 0.988)}.items():
        np.testing.assert_allclose(
            dal_loss(logits, labels, step),
            dal_objective(logits, labels, q, weight),
            rtol=1e-5,
        )


@pytest.mark.parametrize("loss", [dal_objective, dal_loss, gce, mae, ce])
def test_says_which_argument_does_not_fit(loss):
    more = {dal_objective: (1.2, 0.5), dal_loss: (0,)}.get(loss, ())
    logits, labels = example(10)
    wrong = [
        ("logits", (labels, labels)),
        ("integer labels", (logits, labels[:3])),
        ("integer labels", (logits, jnp.zeros((5, 10), int))),
        ("labels as distributions", (logits, jnp.zeros(5))),
        ("labels", (logits, labels > 1)),
    ]
    for name, arguments in wrong:
        with pytest.raises(AssertionError, match=rf"(?s)\b{name}\b"):
            jax.eval_shape(loss, *arguments, *more)
    with pytest.raises(AssertionError, match="where"):
        loss(logits, labels, *more, where=jnp.ones(4, bool))
    with pytest.raises(AssertionError):
        loss(logits, labels, *more, where=jnp.ones(5))


def test_refuses_an_unknown_bootstrap_and_a_single_class():
    logits, labels = example(10)
    with pytest.raises(ValueError, match="unknown bootstrap 'sotf': did you mean"):
        dal_objective(logits, labels, 1.2, 0.5, bootstrap="sotf")
    with pytest.raises(AssertionError, match="two classes"):
        dal_objective(logits[:, :1], labels * 0, 1.2, 0.5)
