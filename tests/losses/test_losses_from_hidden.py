"""Losses from hidden states equal the loss of the last layer's logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses
from dal_jax.errors import InputError

RNG = np.random.default_rng(0)
FEATURES, NUM_CLASSES = 6, 11
STEP, TOTAL_STEPS = 80, 100


def draw(*shape):
    return RNG.normal(size=shape)


def example(rows=(2, 5), dtype=float):
    shapes = (*rows, FEATURES), (FEATURES, NUM_CLASSES), (NUM_CLASSES,)
    labels = RNG.integers(NUM_CLASSES, size=rows)
    return *(draw(*shape).astype(dtype) for shape in shapes), labels


def plain(loss):
    def f(hidden, kernel, labels, step, *, bias=None, where=None):
        logits = hidden @ kernel
        value = loss(logits if bias is None else logits + bias, labels, step)
        return value if where is None else jnp.where(where, value, 0)

    return f


def value_and_gradients(f, hidden, kernel, bias, labels, where=None, weights=None):
    @jax.jit
    def both(hidden, kernel, bias):
        def total(hidden, kernel, bias):
            value = f(hidden, kernel, labels, STEP, bias=bias, where=where)
            return jnp.sum(value if weights is None else value * weights), value

        return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(hidden, kernel, bias)

    (_, value), gradients = both(hidden, kernel, bias)
    return value, *gradients


def compare(actual, expected, rtol=1e-9, atol=1e-12):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        wide = [np.asarray(x, np.float64) for x in (a, e)]
        np.testing.assert_allclose(*wide, rtol=rtol, atol=atol)


# Of the label alone, with entropy, of all classes, drawing by row, clamping.
@pytest.mark.parametrize("name", ["ce", "dal", "nce_rce", "nlnl", "bi_tempered"])
def test_equals_the_loss_of_the_logits(name, x64):
    # Three blocks of four rows, two of which are filled up.
    run = {"total_steps": TOTAL_STEPS, "num_classes": NUM_CLASSES}
    few = {"num_iters": 1} if name == "bi_tempered" else {}  # compiled sooner
    loss = losses.make(name, **run, **few)
    arguments, weights = example(), draw(2, 5)
    blocks = losses.from_hidden(loss, rows_per_block=4)
    expected = value_and_gradients(plain(loss), *arguments, weights=weights)
    actual = value_and_gradients(blocks, *arguments, weights=weights)
    assert actual[0].shape == (2, 5)
    compare(actual, expected)


def test_leaves_rows_out_whatever_they_hold(x64):
    loss = losses.make("gce")
    hidden, kernel, bias, labels = example()
    where = RNG.random((2, 5)) > 0.4
    expected = value_and_gradients(plain(loss), hidden, kernel, bias, labels, where)
    bad = np.where(where[..., None], hidden, np.nan), kernel, bias
    bad = *bad, np.where(where, labels, -100)
    blocks = losses.from_hidden(loss, rows_per_block=3)
    compare(value_and_gradients(blocks, *bad, where), expected)
    mean = losses.mean_from_hidden(loss, rows_per_block=3)
    value, *gradients = value_and_gradients(mean, *bad, where)
    kept = where.sum()
    compare(
        [kept * np.asarray(x) for x in (value, *gradients)],
        [np.sum(expected[0]), *expected[1:]],
    )
    assert jax.jit(mean)(hidden, kernel, labels, STEP, where=where & False) == 0


def test_a_row_left_out_may_have_no_finite_slope(x64):
    """Its logits are zero, where the square root of their sum of squares has none."""
    hidden, kernel, _, labels = example(rows=(4,))
    where = np.arange(4) % 2 == 0

    def norm(logits, labels, step):
        return jnp.sqrt(jnp.sum(logits**2, -1))

    @jax.jit
    def gradients(hidden, kernel):
        blocks = losses.from_hidden(norm, rows_per_block=2)

        def total(hidden, kernel):
            return jnp.sum(blocks(hidden, kernel, labels, STEP, where=where))

        def of_kept(hidden, kernel):
            return jnp.sum(norm(hidden[where] @ kernel, None, STEP))

        return [jax.grad(f, (0, 1))(hidden, kernel) for f in (total, of_kept)]

    compare(*gradients(hidden, kernel))


def test_labels_as_distributions_have_a_gradient_too(x64):
    loss = losses.make("dal", total_steps=TOTAL_STEPS)
    hidden, kernel, bias, _ = example()
    labels = RNG.dirichlet(np.ones(NUM_CLASSES), (2, 5))
    weights = draw(2, 5)

    def gradients(f):
        def total(labels, hidden):
            return jnp.sum(weights * f(hidden, kernel, labels, STEP, bias=bias))

        return jax.jit(jax.value_and_grad(total, (0, 1)))(labels, hidden)

    compare(
        gradients(losses.from_hidden(loss, rows_per_block=4)), gradients(plain(loss))
    )


def test_bfloat16_is_multiplied_as_it_is_and_summed_in_float32():
    loss = losses.make("dal", total_steps=TOTAL_STEPS)
    arguments = example(rows=(64,), dtype=jnp.bfloat16)
    wide = [x.astype(np.float32) if x.ndim > 1 else x for x in arguments]
    blocks = losses.from_hidden(loss, rows_per_block=2)
    expected = value_and_gradients(plain(loss), *wide)
    actual = value_and_gradients(blocks, *arguments)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    for a, e in zip(actual[1:], expected[1:], strict=True):
        assert a.dtype == jnp.bfloat16
        # 32 blocks added up in bfloat16 would be further away than one rounding.
        scale = np.abs(np.asarray(e, np.float32)).max()
        error = np.abs(np.asarray(a, np.float32) - np.asarray(e, np.float32)).max()
        assert error < 2**-8 * scale


def test_under_scan_remat_and_vmap_with_a_captured_parameter(x64):
    hidden, kernel, bias, labels = example(rows=(3, 4))
    weights = draw(4)

    def total(make, q, hidden, kernel):
        def loss(logits, labels, step):
            return losses.gce(logits, labels, q=q * step)

        def next_rows(sum_, rows):
            f = make(loss)
            value = f(rows[0], kernel, rows[1], 2, bias=bias) * weights
            return sum_ + value.sum(), None

        return jax.lax.scan(jax.checkpoint(next_rows), 0.0, (hidden, labels))[0]

    def gradients(make):
        both = jax.value_and_grad(functools.partial(total, make), (0, 1, 2))
        return jax.jit(jax.vmap(both, (0, None, None)))(
            np.array([0.3, 0.6]), hidden, kernel
        )

    blocks = functools.partial(losses.from_hidden, rows_per_block=3)
    compare(gradients(blocks), gradients(plain))


@pytest.mark.parametrize("make", [losses.from_hidden, losses.mean_from_hidden])
def test_holds_the_logits_of_one_block(make):
    hidden, kernel, bias, labels = example(rows=(24,))
    f = make(losses.make("dal", total_steps=TOTAL_STEPS), rows_per_block=4)
    both = jax.grad(lambda *a: f(a[0], a[1], labels, STEP, bias=a[2]).sum(), (0, 1, 2))
    text = jax.jit(both).lower(hidden, kernel, bias).as_text()
    assert f"tensor<4x{NUM_CLASSES}xf32>" in text
    assert f"tensor<24x{NUM_CLASSES}x" not in text
    assert f"tensor<6x4x{NUM_CLASSES}x" not in text
    assert f"tensor<4x6x{NUM_CLASSES}x" not in text


def test_the_mean_computes_the_logits_once():
    hidden, kernel, _, labels = example(rows=(24,))
    loss = losses.make("ce")
    counts = []
    for f in (losses.from_hidden(loss), losses.mean_from_hidden(loss)):
        gradient = jax.grad(lambda h, k, f=f: f(h, k, labels, STEP).mean(), (0, 1))
        counts.append(
            str(jax.make_jaxpr(gradient)(hidden, kernel)).count("dot_general[")
        )
    assert counts == [4, 3]


def test_says_what_does_not_fit():
    hidden, kernel, bias, labels = example()
    with pytest.raises(InputError, match="rows_per_block is 0: expected at least 1"):
        losses.from_hidden(losses.make("ce"), rows_per_block=0)
    f = losses.from_hidden(losses.make("ce"))
    for wrong in (
        {"kernel": kernel.T},
        {"kernel": kernel[None]},
        {"labels": labels[:1]},
        {"bias": bias[1:]},
        {"where": labels},
        {"where": labels[0] > 0},
    ):
        given = {
            "hidden": hidden,
            "kernel": kernel,
            "labels": labels,
            "step": 0,
        } | wrong
        with pytest.raises(AssertionError):
            jax.eval_shape(f, **given)
