"""Sums over the classes, and their derivatives, against plain JAX on each platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses
from dal_jax.losses import class_sums, log_space

RNG = np.random.default_rng(11)


def assert_close(actual, expected, tolerance=1e-10):
    check = functools.partial(
        np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    )
    jax.tree.map(check, actual, expected)


def value_and_derivatives(function, *arguments):
    """Value, gradient and the gradient's derivative along the arguments."""

    def squared(*at):
        value = function(*at)
        return jnp.sum(value**2), value

    gradient = jax.grad(squared, tuple(range(len(arguments))), has_aux=True)
    every = jax.jit(lambda *at: jax.jvp(gradient, at, at, has_aux=True))
    slopes, product, value = every(*arguments)
    return value, slopes, product


def assert_equal_on_each_platform(ours, plain, arguments, choose_platform):
    expected = value_and_derivatives(plain, *arguments)
    for platform in ("cpu", "cuda", "default"):
        choose_platform(platform)
        assert_close(value_and_derivatives(ours, *arguments), expected)
    return expected


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sum_and_its_derivatives_equal_plain_ones(axis, choose_platform, x64):
    def function(logits, weights, top, power):
        return weights * jnp.exp(power * (logits - top)) * top

    logits, weights = RNG.normal(size=(2, 4, 5))
    top = logits.max(axis, keepdims=True)

    def ours(logits, weights, top, power):
        arrays, rows = (logits, weights), (top, power)
        return class_sums.sum_over_classes(function, axis, arrays, rows)

    def plain(*arguments):
        return function(*arguments).sum(axis, keepdims=True)

    arguments = logits, weights, top, np.asarray(0.7)
    expected = assert_equal_on_each_platform(ours, plain, arguments, choose_platform)
    by_hand = np.sum(weights * np.exp(0.7 * (logits - top)) * top, axis, keepdims=True)
    assert_close(expected[0], by_hand)


@pytest.mark.parametrize("distributions", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_label_and_normalizer_make_the_log_softmax(
    axis, distributions, choose_platform, x64
):
    logits = 3 * RNG.normal(size=(4, 4))
    labels = RNG.dirichlet(np.ones(4), 4) if distributions else RNG.integers(4, size=4)
    labels = jnp.asarray(labels if axis else labels.T)

    def ours(logits):
        log_p, *rows = class_sums.label_and_normalizer(axis, logits, labels)
        every = class_sums.log_p_of(logits, *rows)
        return jnp.stack([log_p, jnp.sum(every**3, axis)])

    def plain(logits):
        every = jax.nn.log_softmax(logits, axis)
        if distributions:
            log_p = jnp.sum(labels * every, axis)
        else:
            labelled = jnp.expand_dims(labels, axis)
            log_p = jnp.take_along_axis(every, labelled, axis).squeeze(axis)
        return jnp.stack([log_p, jnp.sum(every**3, axis)])

    assert_equal_on_each_platform(ours, plain, (logits,), choose_platform)


@pytest.mark.parametrize("name", ["nfl", "anl_ce", "ce_sr", "bi_tempered"])
def test_a_loss_is_the_same_on_gpu_and_tpu(name, choose_platform, x64):
    logits, labels = 4 * RNG.normal(size=(6, 10)), RNG.integers(10, size=6)
    few = {"num_iters": 1} if name == "bi_tempered" else {}  # compiled sooner
    loss = functools.partial(getattr(losses, name), labels=labels, **few)
    here = value_and_derivatives(loss, logits)
    assert np.abs(here[1][0]).max() > 1e-3
    for platform in ("cuda", "default"):
        choose_platform(platform)
        assert_close(value_and_derivatives(loss, logits), here, 1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["nce", "nfl", "nnce", "anl_ce"])
def test_no_array_of_all_classes_is_kept_for_the_gradient(name, dtype):
    logits = RNG.normal(size=(6, 10)).astype(dtype)
    labels = RNG.integers(10, size=6)

    @jax.jit
    def kept_for_the_gradient(logits):
        return jax.vjp(lambda z: getattr(losses, name)(z, labels), logits)[1]

    leaves = jax.tree.leaves(kept_for_the_gradient(logits))
    kept = [x for x in leaves if x.size >= logits.size]
    for array in kept:
        np.testing.assert_array_equal(array, logits.astype(array.dtype))
    assert kept


def test_logits_below_the_largest_are_finite_and_move_with_it():
    least = float(jnp.finfo(jnp.float32).min)
    logits = jnp.array([[1.0, 0.0, least, -jnp.inf], [least, least, least, -jnp.inf]])
    top = jnp.max(logits, 1, keepdims=True)
    below, slopes = jax.jvp(log_space.below, (logits, top), (2 * logits, 3 * top))
    np.testing.assert_array_equal(below, [[0, -1, least, least], [0, 0, 0, least]])
    np.testing.assert_array_equal(slopes, 2 * logits - 3 * top)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_label_is_picked_alike_by_gather_and_by_sum(axis, choose_platform):
    logits = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    labels = RNG.integers(-1, logits.shape[axis] + 1, size=(3, 4, 5)).take(0, axis)
    picked = []
    for platform in ("cpu", "default"):
        choose_platform(platform)
        pick = functools.partial(log_space.select_label, axis=axis)
        picked.append(jax.jit(pick)(logits, labels))
    np.testing.assert_array_equal(*picked)
    outside = (labels < 0) | (labels >= logits.shape[axis])
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(np.isnan(picked[0]), outside)
