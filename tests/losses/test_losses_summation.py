"""Sums over the classes, in the forms that the backends take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from dal_jax import losses
from dal_jax.losses.summation import share_of_top, sums_over_classes


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
        return sums_over_classes(power_sum, (logits,), (shift,), (exponents,), axis)

    arguments = tuple(map(jnp.asarray, (logits, shift, exponents)))
    expected = [
        np.exp(e * (logits - shift)).sum(axis, keepdims=True) for e in exponents
    ]
    np.testing.assert_allclose(jax.jit(sums)(*arguments), expected, rtol=1e-12)
    check_grads(sums, arguments, order=2, rtol=1e-6)


@pytest.mark.parametrize("name", losses.names())
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_of_a_large_batch_equal_those_of_small_ones(name, dtype):
    num_examples, num_classes = 400, 100  # 40,000 numbers are large, 10,000 small
    options = {"noise_rate": 0.2} if "noise_rate" in losses.accepted(name) else {}
    loss = losses.make_stateful(
        name,
        num_examples=num_examples,
        num_classes=num_classes,
        total_steps=10,
        **options,
    )
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.standard_normal((num_examples, num_classes)), dtype)
    labels = jnp.asarray(rng.integers(num_classes, size=num_examples))
    index = jnp.asarray(rng.permutation(num_examples))

    @jax.jit
    def value_and_gradient(logits, labels, index):
        def values(logits):
            return loss.apply(logits, labels, 9, loss.init(), index)[0]

        value, back = jax.vjp(values, logits)
        return value, back(jnp.ones_like(value))[0]

    whole = value_and_gradient(logits, labels, index)
    pieces = [jnp.split(array, 4) for array in (logits, labels, index)]
    parts = [value_and_gradient(*piece) for piece in zip(*pieces, strict=True)]
    for actual, expected in zip(whole, zip(*parts, strict=True), strict=True):
        expected = np.concatenate(expected, dtype=np.float32)
        bound = 1e-5 if actual.dtype == jnp.float32 else 1e-2
        error = np.abs(np.asarray(actual, np.float32) - expected)
        assert error.max() <= bound * np.abs(expected).max()


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
