"""The family of losses against golden tables, and what holds for every one of them."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses

TABLE = np.load(Path(__file__).parents[1] / "golden" / "losses_family.npz")
CASES = sorted({key.split("::")[0] for key in TABLE if "|" in key})
NEEDED = {
    "backward_correction": {"noise_rate": 0.4},
    "forward_correction": {"noise_rate": 0.4},
}
# Those that take integer labels alone.
OF_INTEGERS = ("backward_correction", "nlnl")
# Iterations are unrolled: where their number does not matter, one is compiled soonest.
FEW = {"bi_tempered": {"num_iters": 1}}
every_loss = pytest.mark.parametrize("name", losses.names())


def plain(name, **options):
    """The loss as a function of logits and labels with ``axis`` and ``where``."""
    if name == "elr":
        targets = 0.9 * np.random.default_rng(1).dirichlet(np.ones(5), 8)

        def with_targets(logits, labels, axis=-1, where=None):
            moved = np.moveaxis(targets, -1, axis)
            return losses.elr(logits, labels, moved, axis=axis, where=where)

        return with_targets
    if name == "nlnl":

        def with_key(logits, labels, **options):
            return losses.nlnl(logits, labels, jax.random.key(3), **options)

        return with_key
    if name == "dal":
        return functools.partial(losses.dal_objective, q=1.2, bootstrap_weight=0.4)
    return functools.partial(getattr(losses, name), **NEEDED.get(name, {}), **options)


def with_gradient(function, logits, *arguments):
    value, back = jax.vjp(lambda z: function(z, *arguments), logits)
    return value, back(jnp.ones_like(value))[0]


@functools.cache
def compiled(name):
    """Value and gradient of the rows that are kept."""
    function = plain(name)

    @jax.jit
    def both(logits, labels, keep):
        return with_gradient(lambda *a: function(*a, where=keep), logits, labels)

    return both


def value_and_gradient(name, logits, labels):
    return compiled(name)(logits, labels, np.ones(8, bool))


def example(num_classes=5, batch=8, scale=2.0, dtype=None):
    rng = np.random.default_rng(num_classes)
    logits = jnp.asarray(rng.normal(0, scale, (batch, num_classes)), dtype)
    return logits, jnp.asarray(rng.integers(num_classes, size=batch))


@functools.cache
def of_the_table(name, whole, arrays):
    """Value and gradient of the table's rows, compiled once for all real numbers."""
    options = dict(whole) | {key: TABLE[key] for key in arrays}
    extra = [options.pop("targets")] if "targets" in options else []

    @jax.jit
    def both(logits, real):
        loss = functools.partial(getattr(losses, name), **options, **real)
        return with_gradient(loss, logits, TABLE["labels"], *extra)

    return both


@pytest.mark.parametrize("case", CASES)
def test_equals_the_golden_table(case, x64):
    name, _, text = case.partition("|")
    whole, real, arrays = {}, {}, []
    for option in filter(None, text.split(",")):
        key, given, number = option.partition("=")
        if not given:
            arrays.append(key)
        elif key in ("order", "num_iters"):
            whole[key] = int(number)
        else:
            real[key] = float(number)
    both = of_the_table(name, tuple(whole.items()), tuple(arrays))
    value, gradient = both(TABLE["logits"], real)
    np.testing.assert_allclose(value, TABLE[f"{case}::value"], rtol=1e-11, atol=1e-12)
    expected = TABLE[f"{case}::gradient"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_the_golden_table_holds_the_whole_family():
    covered = {case.partition("|")[0] for case in CASES}
    elsewhere = {"ce", "dal", "gce", "mae"}  # test_losses_dal.py
    assert covered == set(losses.names()) - elsewhere - {"nlnl"}


@functools.cache
def derivatives(name):
    """Value and gradient, and how they change along a direction."""
    function = plain(name, **FEW.get(name, {}))

    @jax.jit
    def every(logits, labels, direction):
        along = jax.jvp(lambda z: function(z, labels), (logits,), (direction,))[1]
        both = functools.partial(with_gradient, function)
        here, linear = jax.linearize(lambda z: both(z, labels), logits)
        product = linear(direction)[1]
        (back,) = jax.linear_transpose(lambda d: linear(d)[1], logits)(direction)
        return here, along, product, back

    return every


@every_loss
def test_derivatives_by_differences(name, x64):
    logits, labels = example(scale=1.0)
    direction = np.random.default_rng(7).normal(size=logits.shape)
    every = derivatives(name)
    step = 1e-5
    (_, gradient), along, product, back = every(logits, labels, direction)
    ahead, behind = (
        every(logits + s * direction, labels, direction)[0] for s in (step, -step)
    )
    values, slopes = ((a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    close(along, values)
    close(along, (gradient * direction).sum(-1))
    close(product, slopes)
    close(product, back)  # the second derivative is symmetric


@every_loss
def test_the_gradient_of_a_row_sums_to_zero(name):
    # Softmax does not see a shift of all logits; normalised logits do.
    if name == "ce_sr":
        pytest.skip("not a function of differences of logits")
    _, gradient = value_and_gradient(name, *example())
    scale = np.abs(gradient).max()
    assert scale > 1e-3
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=2e-6 * max(scale, 1))


@every_loss
def test_extreme_logits_are_finite(name):
    logits = np.random.default_rng(0).choice([-1e4, 0, 1e4], (8, 5))
    logits[0], logits[1] = 1e4, [1e4, -1e4, -1e4, -1e4, -1e4]
    for labels in (np.arange(8) % 5, logits.argmax(-1), logits.argmin(-1)):
        value, gradient = value_and_gradient(
            name, jnp.asarray(logits, jnp.float32), jnp.asarray(labels)
        )
        assert np.all(np.isfinite(value)), value
        assert np.all(np.isfinite(gradient)), gradient


def least_hyperparameters(name):
    """The ends of their ranges, or nearly; of numbers without an end, -5."""
    return {
        hyper: max(declared.range.least, -5) + 0.01 * ("(" in declared.range.open)
        for hyper, declared in losses.hyperparameters(name).items()
        if declared.range is not None and declared.kind is not int
    } | NEEDED.get(name, {})


@pytest.mark.parametrize(
    "name", [n for n in losses.names() if n != "elr" and least_hyperparameters(n)]
)
def test_logits_of_any_size_are_finite_at_the_ends_of_ranges(name):
    """A power below 1 has an infinite slope where a probability is 0 or 1."""
    run = {"total_steps": 100, "steps_per_epoch": 10, "num_classes": 5}
    loss = losses.make(name, **run, **least_hyperparameters(name))
    logits = np.random.default_rng(0).choice([-1e4, 0, 30, 200, 1e4], (24, 5))
    logits[:3] = [[200, 0, 0, 0, 0], [30, 0, 0, 0, 0], [1e4, -1e4, -1e4, -1e4, -1e4]]
    labels = np.arange(24) % 5
    labels[:16] = np.concatenate([logits[:8].argmax(-1), logits[8:16].argmin(-1)])
    value, gradient = jax.jit(
        lambda logits: with_gradient(loss, logits, jnp.asarray(labels), 60)
    )(jnp.asarray(logits, jnp.float32))
    assert np.all(np.isfinite(value)), value
    assert np.all(np.isfinite(gradient)), gradient


@every_loss
def test_bfloat16_is_computed_in_float32(name):
    check_low_precision(name, jnp.bfloat16)


@pytest.mark.parametrize("name", ["agce", "nce_rce", "js"])
def test_float16_is_computed_in_float32(name):
    check_low_precision(name, jnp.float16)


def check_low_precision(name, dtype):
    logits, labels = example(dtype=dtype)
    value, gradient = value_and_gradient(name, logits, labels)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    wide = value_and_gradient(name, logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(value, wide[0], rtol=1e-5, atol=1e-6)
    gradient = gradient.astype(jnp.float32)
    np.testing.assert_allclose(gradient, wide[1], rtol=0.01, atol=1e-4)


@every_loss
def test_a_class_that_cannot_be_is_like_one_that_hardly_can(name):
    if name in ("backward_correction", "ce_sr"):
        pytest.skip("a sum over all logits, where one is infinite, is part of it")
    logits, labels = example()
    labels = labels % 4
    impossible = logits.at[:, 4].set(-jnp.inf)
    value, gradient = value_and_gradient(name, impossible, labels)
    nearly, nearly_gradient = value_and_gradient(
        name, logits.at[:, 4].set(-1e30), labels
    )
    np.testing.assert_allclose(value, nearly, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gradient, nearly_gradient, rtol=1e-6, atol=1e-7)


@every_loss
def test_masked_rows_are_exactly_zero(name):
    logits, labels = example()
    keep = np.arange(8) % 2 == 0
    bad = jnp.array([jnp.nan, jnp.inf, 0, 0, -jnp.inf])
    broken = compiled(name)(jnp.where(keep[:, None], logits, bad), labels, keep)
    for result, whole in zip(broken, compiled(name)(logits, labels, keep), strict=True):
        assert np.all(result[~keep] == 0)
        np.testing.assert_array_equal(result, whole)
        assert np.all(np.any(np.reshape(result[keep], (4, -1)) != 0, axis=-1))


@every_loss
def test_other_shapes_and_labels_change_nothing(name, x64):
    logits, labels = example()
    function = plain(name, **FEW.get(name, {}))

    @jax.jit
    def results(logits, labels):
        values, gradients = {}, {}
        if name not in OF_INTEGERS:
            one_hot = jax.nn.one_hot(labels, 5)
            found = with_gradient(function, logits, one_hot)
            values["one-hot"], gradients["one-hot"] = found
        if name in ("elr", "nlnl"):  # whose targets and draws are of eight rows
            first = functools.partial(function, axis=0)
            value, gradient = with_gradient(first, logits.T, labels)
            values["classes first"], gradients["classes first"] = value, gradient.T
        else:
            values["row"] = jax.vmap(function)(logits, labels)
            between = functools.partial(function, axis=1)
            mapped = jax.vmap(functools.partial(with_gradient, between))
            grid = logits.reshape(2, 2, 2, 5).mT, labels.reshape(2, 2, 2)
            value, gradient = mapped(*grid)
            values["classes between"] = value.ravel()
            gradients["classes between"] = gradient.mT.reshape(8, 5)
        return values, gradients

    here, *_ = derivatives(name)(logits, labels, logits)
    for expected, found in zip(here, results(logits, labels), strict=True):
        for what, actual in found.items():
            np.testing.assert_allclose(actual, expected, atol=1e-11, err_msg=what)


@pytest.mark.parametrize(
    "name", ["nfl", "ce_sr", "agce", "bi_tempered", "js", "nnce", "anl_ce"]
)
def test_hyperparameters_may_be_traced_and_differentiated(name, x64):
    logits, labels = example(scale=1.0)
    values = {
        "nfl": {"gamma": 0.7},
        "ce_sr": {"temperature": 0.4, "p": 0.2, "regularization_weight": 1.5},
        "agce": {"a": 0.8, "q": 0.6},
        "bi_tempered": {"t1": 0.7, "t2": 1.4},
        "js": {"pi": 0.3},
        "nnce": {"min_probability": 1e-3},
        "anl_ce": {"alpha": 2.0, "beta": 3.0, "min_probability": 1e-3},
    }[name]

    def loss(numbers):
        options = dict(zip(values, numbers, strict=True))
        return plain(name, **FEW.get(name, {}))(logits, labels, **options)

    @jax.jit
    def both(numbers):
        return loss(numbers), jax.jacrev(loss)(numbers)

    numbers = np.array(list(values.values()))
    slopes = np.asarray(both(numbers)[1])
    for i, step in enumerate(1e-6 * np.eye(len(values))):
        difference = (both(numbers + step)[0] - both(numbers - step)[0]) / 2e-6
        np.testing.assert_allclose(slopes[:, i], difference, rtol=1e-5, atol=1e-8)
