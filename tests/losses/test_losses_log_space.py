"""Masks, axes, labels as distributions, and the closed form that losses share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import dal_objective
from dal_jax.losses import ce, closed_form, gce, log_space, mae


def dal(logits, labels, **options):
    return dal_objective(logits, labels, 1.3, 0.5, **options)


def dal_hard(logits, labels, **options):
    return dal_objective(logits, labels, 1.3, 0.5, bootstrap="hard", **options)


every_loss = pytest.mark.parametrize("loss", [dal, dal_hard, gce, mae, ce])


def example(*shape, seed=0):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(0, 2, shape), jnp.float32)
    return logits, jnp.asarray(rng.integers(shape[-1], size=shape[:-1]))


@functools.partial(jax.jit, static_argnames=("loss", "axis"))
def value_and_gradient(loss, logits, labels, **options):
    def value(z):
        return loss(z, labels, **options)

    values, back = jax.vjp(value, logits)
    return values, back(jnp.ones_like(values))[0]


@functools.partial(jax.jit, static_argnames="loss")
def hessian_product(loss, logits, labels, where, direction):
    def total(z):
        return loss(z, labels, where=where).sum()

    return jax.jvp(jax.grad(total), (logits,), (direction,))[1]


@every_loss
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("soft", [False, True], ids=["integers", "distributions"])
def test_masked_rows_are_zero_whatever_they_hold(loss, bad, soft):
    logits, labels = example(4, 10)
    if soft:
        labels = jax.nn.softmax(logits[::-1]).at[1].set(bad)
    else:
        labels = labels.at[1].set(-1)
    where = jnp.array([True, False, True, False])
    spoilt = logits.at[1].set(bad).at[3, 2].set(bad)
    value, gradient = value_and_gradient(loss, spoilt, labels, where=where)
    kept, kept_labels = logits.at[1::2].set(0), labels.at[1::2].set(0)
    results = value_and_gradient(loss, kept, kept_labels, where=where)
    expected, expected_gradient = (result[::2] for result in results)
    np.testing.assert_array_equal(value[1::2], np.zeros(2))
    np.testing.assert_array_equal(gradient[1::2], np.zeros((2, 10)))
    np.testing.assert_allclose(value[::2], expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[::2], expected_gradient, rtol=1e-5, atol=1e-7)
    product = hessian_product(loss, spoilt, labels, where, logits)
    np.testing.assert_array_equal(product[1::2], np.zeros((2, 10)))
    assert np.all(np.isfinite(product))


@every_loss
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_any_axis_may_hold_the_classes(loss, axis):
    logits, labels = example(3, 2, 256)
    mixed = jax.nn.softmax(logits, -1)[::-1]
    for given, moved in ((labels, labels), (mixed, jnp.moveaxis(mixed, -1, axis))):
        expected, gradient = value_and_gradient(loss, logits, given)
        other = jnp.moveaxis(logits, -1, axis)
        value, other_gradient = value_and_gradient(loss, other, moved, axis=axis)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        np.testing.assert_allclose(
            jnp.moveaxis(other_gradient, axis, -1), gradient, rtol=1e-4, atol=1e-6
        )


@every_loss
def test_one_hot_distributions_equal_integers(loss):
    logits, labels = example(4, 10)
    value, gradient = value_and_gradient(loss, logits, labels)
    one_hot = jax.nn.one_hot(labels, 10)
    soft, soft_gradient = value_and_gradient(loss, logits, one_hot)
    np.testing.assert_allclose(soft, value, rtol=1e-5)
    np.testing.assert_allclose(soft_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_distributions_average_the_losses_of_their_classes():
    logits, _ = example(3, 4)
    mixed = jnp.array([[0.7, 0.3, 0, 0], [0.25] * 4, [0, 0, 0, 1]])
    each = jnp.stack([gce(logits, jnp.full(3, k)) for k in range(4)], -1)
    np.testing.assert_allclose(gce(logits, mixed), (mixed * each).sum(-1), rtol=1e-5)


@every_loss
def test_a_label_out_of_range_is_never_a_number(loss):
    logits, labels = example(3, 10)
    for unknown in (-1, 10):
        value, _ = value_and_gradient(loss, logits, labels.at[1].set(unknown))
        np.testing.assert_array_equal(np.isnan(value), [False, True, False])


@every_loss
def test_labels_of_any_integer_dtype(loss):
    # More classes than int8 counts.
    logits, labels = example(4, 300)
    labels = labels % 100

    @jax.jit
    def values(logits, labels):
        dtypes = (jnp.int8, jnp.uint8, jnp.int32)
        return [loss(logits, labels.astype(dtype)) for dtype in dtypes]

    for value in values(logits, labels):
        np.testing.assert_array_equal(
            value, value_and_gradient(loss, logits, labels)[0]
        )


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
    logits, labels = example(4, 640)
    logits = jnp.round(logits * 64) / 64  # so that the shifted ones are exact
    value, gradient = value_and_gradient(loss, logits, labels)
    shifted, shifted_gradient = value_and_gradient(loss, logits + 1024, labels)
    np.testing.assert_allclose(shifted, value, rtol=2e-6)
    np.testing.assert_allclose(shifted_gradient, gradient, rtol=1e-5, atol=1e-8)


def test_terms_may_have_parameters_of_their_own(x64):
    logits, labels = example(3, 5)
    logits, gamma = logits.astype(float), jnp.array([0.5, 1.5, 2.5])

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
    rows = example(4, 7)[0].astype(jnp.float64)
    rows = rows.at[1, 2].set(rows[1].max()).at[2].set(0.5).at[3, 0].set(-jnp.inf)
    direction = jnp.asarray(np.random.default_rng(1).normal(size=rows.shape))

    def formula(z):
        return jnp.sum(jax.nn.logsumexp(z, -1) - jnp.max(z, -1))

    def ours(z):
        return jnp.sum(log_space.ce_of_top(z, 1))

    def all_of(f):
        gradient, product = jax.jvp(jax.grad(f), (rows,), (direction,))
        return f(rows), jax.jvp(f, (rows,), (direction,))[1], gradient, product

    for found, expected in zip(all_of(ours), all_of(formula), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
