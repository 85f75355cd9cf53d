"""Sums over the classes, in the forms that the backends take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import dal_objective
from dal_jax.losses.summation import sums_in_loop


def power_sum(logits, shift, exponent):
    return jnp.exp(exponent * (logits - shift))


@pytest.mark.usefixtures("as_for_large_arrays")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_equals_numpy_in_either_form(platform, axis, monkeypatch, x64):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 6))
    shift, exponents = logits.max(axis, keepdims=True), np.array([0.5, 1.0, 3.0])

    def chosen(*arguments, cpu, default):
        return (cpu if platform == "cpu" else default)(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)

    def sums(logits, shift, exponents):
        return sums_in_loop(power_sum, (logits,), (shift,), (exponents,), axis)

    def plain(logits, shift, exponents):
        powers = power_sum(logits, shift, exponents[:, None, None])
        return powers.sum(axis + 1, keepdims=True)

    def derivatives(function):
        def first(*at):
            return jax.grad(lambda *a: (function(*a) ** 2).sum(), (0, 1, 2))(*at)

        return jax.jit(lambda *at: (function(*at), jax.jvp(first, at, at)))

    arguments = tuple(map(jnp.asarray, (logits, shift, exponents)))
    results = (derivatives(function)(*arguments) for function in (sums, plain))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), *results)


# The one use of these sums is the entropy of narrow logits.
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_of_a_large_batch_equal_those_of_small_ones(dtype):
    shape = 400, 100  # 40,000 numbers are large, 10,000 small
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.standard_normal(shape), dtype)
    labels = jnp.asarray(rng.integers(shape[1], size=shape[0]))

    @jax.jit
    def value_and_gradient(logits, labels):
        value, back = jax.vjp(lambda z: dal_objective(z, labels, 1.3, 0.5), logits)
        return value, back(jnp.ones_like(value))[0]

    whole = value_and_gradient(logits, labels)
    pieces = zip(jnp.split(logits, 4), jnp.split(labels, 4), strict=True)
    parts = [value_and_gradient(*piece) for piece in pieces]
    for actual, expected in zip(whole, zip(*parts, strict=True), strict=True):
        expected = np.concatenate(expected, dtype=np.float32)
        bound = 1e-5 if actual.dtype == jnp.float32 else 1e-2
        error = np.abs(np.asarray(actual, np.float32) - expected)
        assert error.max() <= bound * np.abs(expected).max()


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2), reason="earlier versions of XLA keep one"
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.usefixtures("all_optimizations")
def test_no_temporary_of_the_logits_size(dtype):
    def loss(logits):
        top = logits.max(1, keepdims=True)
        sums = sums_in_loop(power_sum, (logits,), (top,), (jnp.ones(2, dtype),), 1)
        return sums.sum()

    logits = jnp.ones((256, 1000), dtype)
    memory = jax.jit(loss).lower(logits).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 0.1 * logits.nbytes
