"""The sums from one reduction, as GPU and TPU take them, against the plain form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses
from dal_jax.losses import softmax

RNG = np.random.default_rng(0)
LABELS = RNG.integers(7, size=5)


def some_logits(axis=1, dtype=np.float64, scale=3, classes=7):
    logits = RNG.normal(0, scale, (5, classes)).astype(dtype)
    return logits if axis else logits.T


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def both_forms(axis, with_entropy, parts, logits, labels):
    online = softmax.online(axis, with_entropy, parts, logits, labels)
    return online, softmax.in_passes(axis, with_entropy, logits, labels)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_equals_the_plain_sums(parts, axis, with_entropy, x64):
    logits = some_logits(axis, classes=parts * 7)
    online, plain = both_forms(axis, with_entropy, parts, logits, LABELS)
    assert (online.moment is None) is not with_entropy
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-13), online, plain
    )


@pytest.mark.parametrize("parts", [1, 7])
def test_equals_the_plain_sums_at_extremes(parts):
    logits = some_logits(dtype=np.float32)
    logits[0, 2:] = -np.inf
    logits[1, 3] = np.finfo(np.float32).min
    logits[2] = RNG.choice([-1e4, 1e4], 7)
    logits[3] = RNG.choice([-3e38, 3e38], 7)
    logits[4, 1] = np.nan
    labels = np.array([7, *LABELS[1:]])  # there are seven classes
    online, plain = both_forms(1, True, parts, logits, labels)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6), online, plain
    )
    assert np.isnan(online.label[0])
    assert np.isfinite(np.stack([online.top, online.total, online.moment])[:, :4]).all()
    assert np.isnan(online.total[4])


def everything(logits, direction, dtype):
    """Losses, gradient, and product with the second derivatives, for several q."""

    def total(logits, q):
        loss = losses.dal_objective(logits.astype(dtype), LABELS, q, 0.4)
        return jnp.sum(loss * jnp.arange(1, 6)), loss

    def at(q):
        gradient = jax.grad(total, has_aux=True)
        own = functools.partial(gradient, q=q)
        first, second, loss = jax.jvp(own, (logits,), (direction,), has_aux=True)
        along = jax.jvp(lambda z: total(z, q)[0], (logits,), (direction,))[1]
        return loss, first, second, along

    return jax.jit(jax.vmap(at))(np.array([0.0, 0.7, 1.0, 1.4]))


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
def test_the_loss_and_its_derivatives_equal_those_of_the_plain_form(
    dtype, x64, choose_platform
):
    # Ten classes are columns of two on a GPU.
    logits, direction = some_logits(classes=10), some_logits(classes=10)
    expected = everything(logits, direction, dtype)
    assert np.abs(expected[2]).min() > 0
    tolerance = 1e-11 if dtype == jnp.float64 else 1e-4
    for platform in ("cuda", "default"):
        choose_platform(platform)
        actual = everything(logits, direction, dtype)
        for a, e in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def test_on_gpu_and_tpu_one_reduction_is_lowered(x64):
    logits = jax.ShapeDtypeStruct((5, 7), jnp.bfloat16)
    loss = jax.jit(lambda z: losses.dal_objective(z, LABELS, 1.2, 0.4))
    text = {
        platform: loss.trace(logits).lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    assert "reduce" in text["cpu"]
    of_four = [t.count("applies") == 0 and "reducer(" in t for t in text.values()]
    assert of_four == [False, True, True]


@pytest.mark.parametrize("name", ["ce", "gce", "dal", "agce", "js", "focal"])
def test_keeps_the_logits_and_numbers_of_rows_for_the_gradient(name):
    logits = RNG.normal(size=(5, 7)).astype(jnp.bfloat16)
    loss = losses.make(name)

    @jax.jit
    def kept_for_the_gradient(logits):
        return jax.vjp(lambda z: loss(z, LABELS, 50_000), logits)[1]

    leaves = jax.tree.leaves(kept_for_the_gradient(logits))
    kept = [x for x in leaves if x.size >= logits.size]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], logits)
