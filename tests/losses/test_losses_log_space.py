"""Masks, axes, labels as distributions, and the closed form that losses share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from dal_jax import dal_objective
from dal_jax.losses import ce, closed_form, gce, log_space, mae


def dal(logits, labels, **options):
    return dal_objective(logits, labels, 1.3, 0.5, **options)


def dal_hard(logits, labels, **options):
    return dal_objective(logits, labels, 1.3, 0.5, bootstrap="hard", **options)


every_loss = pytest.mark.parametrize("loss", [dal, dal_hard, gce, mae, ce])


def example(*shape, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, shape).astype(np.float32)
    return logits, rng.integers(shape[-1], size=shape[:-1])


def with_gradient(loss, logits, labels, **options):
    value, back = jax.vjp(lambda z: loss(z, labels, **options), logits)
    return value, back(jnp.ones_like(value))[0]


@functools.partial(jax.jit, static_argnames="loss")
def derivatives(loss, logits, labels, where, direction):
    """Value and gradient, and how the gradient changes along a direction."""

    def both(z):
        return with_gradient(loss, z, labels, where=where)

    found, (_, product) = jax.jvp(both, (logits,), (direction,))
    return *found, product


def value_and_gradient(loss, logits, labels):
    return derivatives(loss, logits, labels, np.ones(4, bool), logits)[:2]


@every_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("soft", [False, True], ids=["integers", "distributions"])
def test_masked_rows_are_zero_whatever_they_hold(loss, bad, soft):
    logits, labels = example(4, 10)
    if soft:
        labels = scipy.special.softmax(logits[::-1], -1)
    where = np.array([True, False, True, False])
    spoilt, kept, spoilt_labels, kept_labels = (
        array.copy() for array in (logits, logits, labels, labels)
    )
    spoilt[1] = spoilt[3, 2] = bad
    spoilt_labels[1] = bad if soft else -1
    kept[1::2] = kept_labels[1::2] = 0
    value, gradient, product = derivatives(loss, spoilt, spoilt_labels, where, logits)
    expected, expected_gradient, _ = derivatives(loss, kept, kept_labels, where, logits)
    np.testing.assert_array_equal(value[1::2], np.zeros(2))
    np.testing.assert_array_equal(gradient[1::2], np.zeros((2, 10)))
    np.testing.assert_allclose(value[::2], expected[::2], rtol=1e-6)
    np.testing.assert_allclose(
        gradient[::2], expected_gradient[::2], rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(product[1::2], np.zeros((2, 10)))
    assert np.all(np.isfinite(product))


@every_loss
def test_any_axis_may_hold_the_classes(loss):
    logits, labels = example(3, 2, 5)
    mixed = scipy.special.softmax(logits, -1)[::-1]

    @jax.jit
    def results(logits, labels, mixed):
        def along(axis, labels):
            moved = jnp.moveaxis(logits, -1, axis)
            value, gradient = with_gradient(loss, moved, labels, axis=axis)
            return value, jnp.moveaxis(gradient, axis, -1)

        axes = 0, -2
        return (
            with_gradient(loss, logits, labels),
            [along(axis, labels) for axis in axes],
            with_gradient(loss, logits, mixed),
            [along(axis, jnp.moveaxis(mixed, -1, axis)) for axis in axes],
        )

    integers, moved_integers, soft, moved_soft = results(logits, labels, mixed)
    for expected, found in ((integers, moved_integers), (soft, moved_soft)):
        for value, gradient in found:
            np.testing.assert_allclose(value, expected[0], rtol=1e-5)
            np.testing.assert_allclose(gradient, expected[1], rtol=1e-4, atol=1e-6)


@every_loss
def test_one_hot_distributions_equal_integers(loss):
    logits, labels = example(4, 10)
    value, gradient = value_and_gradient(loss, logits, labels)
    one_hot = np.eye(10, dtype=np.float32)[labels]
    soft, soft_gradient = value_and_gradient(loss, logits, one_hot)
    np.testing.assert_allclose(soft, value, rtol=1e-5)
    np.testing.assert_allclose(soft_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_distributions_average_the_losses_of_their_classes():
    logits, _ = example(3, 4)
    mixed = np.array([[0.7, 0.3, 0, 0], [0.25] * 4, [0, 0, 0, 1]])

    @jax.jit
    def both(logits, mixed):
        each = [gce(logits, jnp.full(3, k)) for k in range(4)]
        return gce(logits, mixed), jnp.stack(each, -1)

    value, each = both(logits, mixed)
    np.testing.assert_allclose(value, (mixed * each).sum(-1), rtol=1e-5)


@every_loss
def test_a_label_out_of_range_is_never_a_number(loss):
    logits, labels = example(4, 10)
    for unknown in (-1, 10):
        labels[1] = unknown
        value, _ = value_and_gradient(loss, logits, labels)
        np.testing.assert_array_equal(np.isnan(value), np.arange(4) == 1)


@every_loss
def test_labels_of_any_integer_dtype(loss):
    # More classes than int8 counts.
    logits, labels = example(4, 300)
    labels = labels % 100

    @jax.jit
    def values(logits, labels):
        dtypes = (jnp.int8, jnp.uint8, jnp.int32)
        each = [loss(logits, labels.astype(dtype)) for dtype in dtypes]
        return each, loss(logits, labels)

    each, expected = values(logits, labels)
    for value in each:
        np.testing.assert_array_equal(value, expected)


@every_loss
def test_without_batch_and_with_many_batch_dimensions(loss):
    logits, labels = example(2, 3, 10)

    @jax.jit
    def values(logits, labels):
        none = loss(logits[:0], labels[:0])
        return loss(logits, labels), loss(logits[1, 2], labels[1, 2]), none

    many, one, none = values(logits, labels)
    assert (many.shape, one.shape, none.shape) == ((2, 3), (), (0, 3))
    np.testing.assert_allclose(one, many[1, 2], rtol=1e-6)


@every_loss
def test_a_row_shift_of_the_logits_changes_nothing(loss):
    logits, labels = example(4, 10)
    logits = np.round(logits * 64) / 64  # so that the shifted ones are exact
    value, gradient = value_and_gradient(loss, logits, labels)
    shifted, shifted_gradient = value_and_gradient(loss, logits + 1024, labels)
    np.testing.assert_allclose(shifted, value, rtol=2e-6)
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=1e-5, atol=1e-8)


def test_terms_may_have_parameters_of_their_own(x64):
    logits, labels = example(3, 5)
    logits, gamma = logits.astype(float), np.array([0.5, 1.5, 2.5])

    def by_term(z, gamma):
        return closed_form.of_label(_focal_term, z, labels, (gamma,))

    def plain(z, gamma):
        return _focal_term(jax.nn.log_softmax(z)[jnp.arange(3), labels], gamma)

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(loss):
        return loss(logits, gamma), jax.jacobian(loss, (0, 1))(logits, gamma)

    close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-14)
    jax.tree.map(close, derivatives(by_term), derivatives(plain))


def _focal_term(log_p, gamma):
    return -((-jnp.expm1(log_p)) ** gamma) * log_p


@every_loss
@pytest.mark.usefixtures("all_optimizations")
def test_temporaries_stay_near_the_size_of_the_logits(loss):
    logits, labels = example(512, 1000)

    def mean(z):
        return loss(z, labels).mean()

    compiled = jax.jit(jax.value_and_grad(mean)).lower(logits).compile()
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    # The derivative of a maximum is that of autodiff, which keeps an array more.
    assert temporaries <= (2.1 if loss is dal_hard else 1.1) * logits.nbytes


def test_no_residual_is_larger_than_the_logits():
    logits, labels = example(64, 1000)
    _, back = jax.vjp(jax.jit(lambda z: dal(z, labels)), logits)
    kept = [leaf for leaf in jax.tree.leaves(back) if hasattr(leaf, "nbytes")]
    assert sum(leaf.nbytes for leaf in kept) <= 1.1 * logits.nbytes


@every_loss
def test_the_gradient_needs_no_scatter(loss):
    logits, labels = example(8, 1000)
    gradient = jax.jit(jax.grad(lambda z: loss(z, labels).sum()))
    assert "scatter" not in gradient.lower(logits).as_text()


def test_derivatives_of_ce_of_the_top_are_those_of_its_formula(x64):
    """Autodiff of the formula itself; ties share the largest logit's derivative."""
    rows = example(4, 7)[0].astype(float)
    rows[1, 2], rows[2], rows[3, 0] = rows[1].max(), 0.5, -np.inf
    direction = np.random.default_rng(1).normal(size=rows.shape)

    def formula(z):
        return jnp.sum(jax.nn.logsumexp(z, -1) - jnp.max(z, -1))

    def ours(z):
        return jnp.sum(log_space.ce_of_top(z, 1))

    @functools.partial(jax.jit, static_argnums=0)
    def all_of(f):
        gradient, product = jax.jvp(jax.grad(f), (rows,), (direction,))
        return f(rows), jax.jvp(f, (rows,), (direction,))[1], gradient, product

    for found, expected in zip(all_of(ours), all_of(formula), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
