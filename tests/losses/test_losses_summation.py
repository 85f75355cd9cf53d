"""Sums over the classes, in the forms that the backends take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dal_jax.losses.summation import share_of_top, sums_over_classes


def power_sum(logits, shift, exponent):
    return jnp.exp(exponent * (logits - shift))


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
        return sums_over_classes(power_sum, (logits,), (shift,), (exponents,), axis)

    arguments = tuple(map(jnp.asarray, (logits, shift, exponents)))
    expected = [
        np.exp(e * (logits - shift)).sum(axis, keepdims=True) for e in exponents
    ]
    np.testing.assert_allclose(jax.jit(sums)(*arguments), expected, rtol=1e-12)
    check_grads(sums, arguments, order=2, rtol=1e-6)


def test_equal_largest_logits_share_the_derivative(x64):
    logits = jnp.array([[1.0, 3.0, 3.0], [2.0, -jnp.inf, 0.0], [1.0, 1 - 1e-15, 0.0]])
    top = logits.max(1, keepdims=True)
    expected = [[0, 0.5, 0.5], [1, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(share_of_top(logits, top, 1), expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_temporary_of_the_logits_size(dtype):
    def loss(logits):
        top = logits.max(1, keepdims=True)
        sums = sums_over_classes(power_sum, (logits,), (top,), (jnp.ones(2, dtype),), 1)
        return sums.sum()

    logits = jnp.ones((256, 1000), dtype)
    memory = jax.jit(loss).lower(logits).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 0.1 * logits.nbytes
