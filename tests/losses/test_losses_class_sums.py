"""Sums over the classes, and their derivatives, against plain JAX on each platform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses
from dal_jax.losses import class_sums, log_space, summation

RNG = np.random.default_rng(11)


def assert_close(actual, expected, tolerance=1e-10):
    check = functools.partial(
        np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    )
    jax.tree.map(check, actual, expected)


def value_and_derivatives(function, *arguments):
    """Value, gradient and the gradient's derivative along the arguments."""

    def squared(*at):
        return jnp.sum(function(*at) ** 2)

    gradient = jax.grad(squared, tuple(range(len(arguments))))
    every = jax.jit(lambda *at: (function(*at), *jax.jvp(gradient, at, at)))
    return every(*arguments)


@pytest.fixture(params=["cpu", "cuda", "default"])  # the last is for a TPU
def platform(request, monkeypatch):
    choose(request.param, monkeypatch)


def choose(platform, monkeypatch):
    """Lets every choice between platforms fall on this one."""

    def chosen(*arguments, default, **forms):
        return forms.get(platform, default)(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sum_and_its_derivatives_equal_plain_ones(axis, x64):
    def function(logits, weights, top, power):
        return weights * jnp.exp(power * (logits - top)) * top

    shape = (4, 5)
    logits, weights = (jnp.asarray(RNG.normal(size=shape)) for _ in range(2))
    top = logits.max(axis, keepdims=True)

    def ours(logits, weights, top, power):
        arrays, rows = (logits, weights), (top, power)
        return class_sums.sum_over_classes(function, axis, arrays, rows)

    def plain(*arguments):
        return function(*arguments).sum(axis, keepdims=True)

    arguments = logits, weights, top, jnp.asarray(0.7)
    actual = value_and_derivatives(ours, *arguments)
    assert_close(actual, value_and_derivatives(plain, *arguments))
    by_hand = np.sum(weights * np.exp(0.7 * (logits - top)) * top, axis, keepdims=True)
    assert_close(actual[0], by_hand)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("distributions", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_label_and_normalizer_make_the_log_softmax(axis, distributions, x64):
    logits = jnp.asarray(3 * RNG.normal(size=(4, 4)))
    labels = jnp.asarray(RNG.integers(4, size=4))
    if distributions:
        labels = jax.nn.softmax(jnp.asarray(RNG.normal(size=(4, 4))), axis)

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

    assert_close(*(value_and_derivatives(form, logits) for form in (ours, plain)))


@pytest.mark.parametrize("name", ["nfl", "anl_ce", "ce_sr", "bi_tempered"])
def test_a_loss_is_the_same_on_gpu_and_tpu(name, monkeypatch, x64):
    logits = jnp.asarray(4 * RNG.normal(size=(6, 10)))
    labels = jnp.asarray(RNG.integers(10, size=6))
    few = {"num_iters": 2} if name == "bi_tempered" else {}  # compiled sooner
    loss = functools.partial(getattr(losses, name), labels=labels, **few)
    here = value_and_derivatives(loss, logits)
    assert np.abs(here[1][0]).max() > 1e-3
    for platform in ("cuda", "default"):
        choose(platform, monkeypatch)
        assert_close(value_and_derivatives(loss, logits), here, 1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["nce", "nfl", "nnce", "anl_ce"])
def test_no_array_of_all_classes_is_kept_for_the_gradient(name, dtype):
    logits = jnp.asarray(RNG.normal(size=(6, 10)), dtype)
    labels = jnp.asarray(RNG.integers(10, size=6))
    loss = getattr(losses, name)
    _, transpose = jax.vjp(lambda z: loss(z, labels), logits)
    kept = [x for x in jax.tree.leaves(transpose) if x.size >= logits.size]
    for array in kept:
        np.testing.assert_array_equal(array, logits.astype(array.dtype))
    assert kept


def test_logits_below_the_largest_are_finite_and_move_with_it():
    least = float(jnp.finfo(jnp.float32).min)
    logits = jnp.array([[1.0, 0.0, least, -jnp.inf], [least, least, least, -jnp.inf]])
    top = jnp.max(logits, 1, keepdims=True)
    below, slopes = jax.jvp(summation.below, (logits, top), (2 * logits, 3 * top))
    np.testing.assert_array_equal(below, [[0, -1, least, least], [0, 0, 0, least]])
    np.testing.assert_array_equal(slopes, 2 * logits - 3 * top)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_label_is_picked_alike_by_gather_and_by_sum(axis, monkeypatch):
    logits = jnp.asarray(RNG.normal(size=(3, 4, 5)))
    labels = RNG.integers(-1, logits.shape[axis] + 1, size=(3, 4, 5)).take(0, axis)
    picked = []
    for platform in ("cpu", "default"):
        choose(platform, monkeypatch)
        picked.append(log_space.select_label(logits, jnp.asarray(labels), axis))
    np.testing.assert_array_equal(*picked)
    outside = (labels < 0) | (labels >= logits.shape[axis])
    assert 0 < outside.sum() < outside.size
    np.testing.assert_array_equal(jnp.isnan(picked[0]), outside)
