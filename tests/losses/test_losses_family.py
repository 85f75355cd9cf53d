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
every_loss = pytest.mark.parametrize("name", losses.names())


def plain(name):
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
    return functools.partial(getattr(losses, name), **NEEDED.get(name, {}))


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


@pytest.mark.parametrize("case", CASES)
def test_equals_the_golden_table(case, x64):
    name, _, text = case.partition("|")
    options = {}
    for option in filter(None, text.split(",")):
        key, given, number = option.partition("=")
        options[key] = float(number) if given else TABLE[key]
    for key in ("order", "num_iters"):
        if key in options:
            options[key] = int(options[key])
    extra = [options.pop("targets")] if "targets" in options else []

    @jax.jit
    def both(logits):
        def loss(logits):
            return getattr(losses, name)(logits, TABLE["labels"], *extra, **options)

        value, back = jax.vjp(loss, logits)
        return value, back(jnp.ones_like(value))[0]

    value, gradient = both(TABLE["logits"])
    np.testing.assert_allclose(value, TABLE[f"{case}::value"], rtol=1e-11, atol=1e-12)
    expected = TABLE[f"{case}::gradient"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_the_golden_table_holds_the_whole_family():
    covered = {case.partition("|")[0] for case in CASES}
    elsewhere = {"ce", "dal", "gce", "mae"}  # test_losses_dal.py
    assert covered == set(losses.names()) - elsewhere - {"nlnl"}


@every_loss
def test_derivatives_by_differences(name, x64):
    logits, labels = example(scale=1.0)
    direction = jnp.asarray(np.random.default_rng(7).normal(size=logits.shape))
    function = plain(name)

    def gradient(logits):
        return with_gradient(function, logits, labels)[1]

    @jax.jit
    def derivatives(logits):
        values, along = jax.jvp(lambda z: function(z, labels), (logits,), (direction,))
        slopes, product = jax.jvp(gradient, (logits,), (direction,))
        back = jax.vjp(gradient, logits)[1](direction)[0]
        return {"loss": values, "gradient": slopes}, along, product, back

    step = 1e-5
    here, along, product, back = derivatives(logits)
    ahead, behind = (derivatives(logits + s * direction)[0] for s in (step, -step))
    differences = {key: (ahead[key] - behind[key]) / (2 * step) for key in here}
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    close(along, differences["loss"])
    close(along, (here["gradient"] * direction).sum(-1))
    close(product, differences["gradient"])
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
    function = plain(name)

    @jax.jit
    def results(logits, labels):
        one_hot = jax.nn.one_hot(labels, 5)
        first, first_gradient = with_gradient(
            functools.partial(function, axis=0), logits.T, labels
        )
        found = {
            "as they come": with_gradient(function, logits, labels),
            "classes first": (first, first_gradient.T),
        }
        if name not in OF_INTEGERS:
            found["one-hot"] = with_gradient(function, logits, one_hot)
        if name not in ("elr", "nlnl"):  # whose targets and draws are of eight rows
            grid = logits.reshape(2, 4, 5), labels.reshape(2, 4)
            value, gradient = with_gradient(function, *grid)
            found["grid"] = value.reshape(8), gradient.reshape(8, 5)
            found["vmap"] = jax.vmap(functools.partial(with_gradient, function))(
                logits, labels
            )
        return found

    found = results(logits, labels)
    for what, (value, gradient) in found.items():
        expected_value, expected_gradient = found["as they come"]
        np.testing.assert_allclose(value, expected_value, atol=1e-11, err_msg=what)
        np.testing.assert_allclose(
            gradient, expected_gradient, atol=1e-11, err_msg=what
        )


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

    @jax.jit
    def loss(*numbers):
        options = dict(zip(values, numbers, strict=True))
        return getattr(losses, name)(logits, labels, **options)

    numbers = jnp.array(list(values.values()))
    slopes = jax.jit(jax.jacrev(lambda x: loss(*x)))(numbers)
    for i, step in enumerate(1e-6 * np.eye(len(values))):
        difference = (loss(*(numbers + step)) - loss(*(numbers - step))) / 2e-6
        np.testing.assert_allclose(slopes[:, i], difference, rtol=1e-5, atol=1e-8)
