"""Losses by name: hyper-parameters, presets, ranges, schedules, memory, errors."""

import copy
import math
from typing import Any, Literal, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dal_jax import losses, recipe
from dal_jax.config import LossConfig, TrainConfig
from dal_jax.errors import InputError
from dal_jax.hyperparameters import Range
from dal_jax.losses import presets

LOGITS = jnp.asarray(np.random.default_rng(2).normal(0, 2, (6, 4)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 3, 0, 1])
DECLARED = {
    (name, key): declared
    for name in losses.names()
    for key, declared in losses.hyperparameters(name).items()
}


def make_loss(loss, seed, num_epochs, *of_data):
    config = TrainConfig(loss=loss, seed=seed, num_epochs=num_epochs)
    return recipe.make_loss(config, *of_data)


def made(name, **options):
    if "noise_rate" in losses.accepted(name):
        options.setdefault("noise_rate", 0.2)
    return losses.make_stateful(
        name, num_examples=6, num_classes=4, total_steps=20, **options
    )


def apply(loss, step=0):
    """One operation at a time: losses share them, so little is compiled."""
    return loss.apply(LOGITS, LABELS, step, loss.init(), np.arange(6))[0]


@pytest.mark.parametrize("name", losses.names())
def test_every_loss_can_be_configured(name):
    config = LossConfig(name)
    if "noise_rate" in losses.accepted(name):
        config.noise_rate = 0.2
    value = apply(make_loss(config, 0, 3, 7, 4, 6))
    assert value.shape == (6,)
    assert np.all(np.isfinite(value))


# Those of the others take more than logits, labels and hyper-parameters.
@pytest.mark.parametrize("name", sorted({*losses.names()} - {"dal", "elr", "nlnl"}))
def test_a_name_stands_for_the_function_of_that_name(name):
    options = {"noise_rate": 0.2} if "noise_rate" in losses.accepted(name) else {}
    by_name = losses.make(name, **options)(LOGITS, LABELS, 0)
    expected = getattr(losses, name)(LOGITS, LABELS, **options)
    np.testing.assert_array_equal(by_name, expected)


@pytest.mark.parametrize("preset", presets.names())
def test_presets_hold_what_the_losses_accept(preset):
    held = presets._PRESETS[preset]
    for name, values in held.items():
        # What is given by name is checked, as a preset's own is not.
        value = apply(made(name, **values, steps_per_epoch=5))
        assert np.all(np.isfinite(value))
        np.testing.assert_array_equal(
            apply(made(name, preset=preset, steps_per_epoch=5)), value
        )
    assert all(presets.holds(preset, name) for name in held)
    assert not presets.holds(preset, "ce")
    assert presets.preset_values(preset, "ce") == {}


@pytest.mark.parametrize("preset", ["cifar10", "cifar100", "webvision"])
def test_published_presets_hold_the_losses_compared_with_dal(preset):
    assert {"dal", "gce", "sce", "ce_sr"} <= set(presets._PRESETS[preset])


def test_a_preset_is_overridden_by_what_is_given():
    by_preset = losses.make("sce", preset="cifar100")(LOGITS, LABELS, 0)
    expected = losses.sce(LOGITS, LABELS, alpha=10.0, beta=0.1)
    np.testing.assert_array_equal(by_preset, expected)
    both = losses.make("sce", preset="cifar100", beta=2.0)(LOGITS, LABELS, 0)
    expected = losses.sce(LOGITS, LABELS, alpha=10.0, beta=2.0)
    np.testing.assert_array_equal(both, expected)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sec", {}, "unknown loss 'sec': did you mean 'sce'?"),
        ("sce", {"gamma": 1}, "'sce' has no hyper-parameter 'gamma': it accepts alpha"),
        ("nce", {"q": 1}, "it accepts none"),
        ("agce", {"a": -1}, "a=-1 is out of range for loss 'agce': expected 0 or more"),
        ("aul", {"a": 1.0}, "expected above 1"),
        ("js", {"pi": 1.0}, "pi=1.0 is out of range for loss 'js': expected above 0"),
        ("dal", {"q_ned": 2}, "'q_ned': did you mean 'q_end'? it accepts q_start,"),
        ("gce", {"q_end": 2}, "loss 'gce' has no hyper-parameter 'q_end'"),
        ("gce", {"q": "half"}, "q=half does not fit loss 'gce': expected a number"),
        ("gce", {"q": True}, "expected a number"),
        ("gce", {"q": (1, 2)}, "expected a number"),
        ("dal", {"per_epoch": 1}, "expected True or False"),
        ("nlnl", {"class_weights": "equal"}, "expected an array"),
        ("taylor_ce", {"order": 2.5}, "expected a whole number"),
        ("taylor_ce", {"order": 0}, "expected 1 or more"),
        ("bi_tempered", {"t1": 2}, "expected below 2"),
        ("gce", {"q": float("nan")}, "q=nan is out of range"),
        ("soft_bootstrapping", {"beta": 1.5}, "expected 0 or more and at most 1"),
        ("forward_correction", {}, "exactly one of noise_rate"),
        ("backward_correction", {}, "exactly one of noise_rate"),
        ("ce_sr", {"regularization_growth": 1.02}, "expected steps_per_epoch"),
        ("elr", {}, "use make_stateful"),
        ("dal", {"bootstrap": "sfot"}, "did you mean 'soft'?"),
        ("sce", {"preset": "cifar"}, "unknown preset 'cifar'"),
        ("elr", {"preset": "webvision"}, "use make_stateful"),
        ("focal", {"preset": "webvision"}, "holds nothing for loss 'focal'"),
    ],
)
def test_wrong_input_is_one_line(name, options, words):
    with pytest.raises(InputError) as caught:
        losses.make(name, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_elr_needs_the_number_of_classes():
    with pytest.raises(InputError, match="expected num_classes"):
        losses.make_stateful("elr", num_examples=3)


@pytest.mark.parametrize(
    ("name", "hyper"), [("sce", "alpha"), ("ce_sr", "p"), ("gce", "q"), ("js", "pi")]
)
def test_hyperparameters_may_be_schedules(name, hyper):
    schedule = optax.linear_schedule(0.2, 0.8, 10)
    loss = jax.jit(losses.make(name, **{hyper: schedule}))
    for step, value in ((0, 0.2), (5, 0.5), (99, 0.8)):
        actual = loss(LOGITS, LABELS, step)
        fixed = losses.make(name, **{hyper: value})(LOGITS, LABELS, 0)
        np.testing.assert_allclose(actual, fixed, rtol=1e-5, atol=1e-6)


def test_the_weight_of_ce_sr_grows_by_the_epoch():
    options = {"regularization_weight": 8.0, "regularization_growth": 1.02}
    by_epoch = made("ce_sr", steps_per_epoch=10, **options)
    by_step = made("ce_sr", steps_per_epoch=10, per_epoch=False, **options)
    for step in (0, 9, 10, 34):
        stairs = by_epoch.coefficients(step)["regularization_weight"]
        np.testing.assert_allclose(stairs, 8 * 1.02 ** (step // 10), rtol=1e-6)
        smooth = by_step.coefficients(step)["regularization_weight"]
        np.testing.assert_allclose(smooth, 8 * 1.02 ** (step / 10), rtol=1e-6)
        expected = losses.ce_sr(LOGITS, LABELS, regularization_weight=stairs)
        np.testing.assert_allclose(apply(by_epoch, step), expected, rtol=1e-5)


def test_dal_reports_its_coefficients_and_holds_them_within_an_epoch():
    held = made("dal", steps_per_epoch=5)
    moving = made("dal", steps_per_epoch=5, per_epoch=False)
    assert set(held.coefficients(0)) == {"q", "bootstrap_weight"}
    assert held.coefficients(6) == held.coefficients(9)
    assert moving.coefficients(6)["q"] < moving.coefficients(9)["q"]
    assert made("gce").coefficients(3)["bootstrap_weight"] == 0
    np.testing.assert_allclose(made("gce", q=0.3).coefficients(3)["q"], 0.3)
    assert made("mae").coefficients(3) == {}


def test_the_configuration_reaches_the_schedule():
    held = make_loss(LossConfig(), 0, 4, 5, 4, 6)
    assert held.coefficients(6) == held.coefficients(9)
    moving = make_loss(LossConfig(per_epoch=False), 0, 4, 5, 4, 6)
    assert moving.coefficients(6)["q"] < moving.coefficients(9)["q"]
    seeds = [
        apply(make_loss(LossConfig(name="nlnl"), seed, 4, 5, 4, 6))
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert np.any(seeds[0] != seeds[2])


def test_nlnl_draws_anew_at_every_step_and_the_same_for_the_same_seed():
    loss = losses.make("nlnl", seed=4)
    first, second = loss(LOGITS, LABELS, 0), loss(LOGITS, LABELS, 1)
    assert np.any(first != second)
    again = losses.make("nlnl", seed=4)(LOGITS, LABELS, 0)
    np.testing.assert_allclose(first, again, rtol=1e-6)


def test_nlnl_draws_for_an_example_the_same_in_any_batch():
    loss = losses.make_stateful("nlnl", num_examples=50, num_classes=10)
    logits = np.random.default_rng(1).normal(size=(8, 10))
    labels, index = np.arange(8), np.array([40, 3, 7, 9, 21, 0, 33, 5])
    rows = np.array([7, 0, 6, 4, 5])

    @jax.jit
    def values(logits, labels, index):
        whole, _ = loss.apply(logits, labels, 6, (), index)
        part, _ = loss.apply(logits[rows], labels[rows], 6, (), index[rows])
        return whole, part

    whole, part = map(np.asarray, values(logits, labels, index))
    np.testing.assert_allclose(part, whole[rows], rtol=1e-6)
    # Examples alike in all but their place are given different labels.
    alike, _ = values(np.tile(logits[:1], (8, 1)), np.zeros(8, int), index)
    assert len(np.unique(alike)) > 2


def test_nlnl_draws_evenly_and_for_no_example_as_for_its_neighbours():
    size, num_classes = 20_000, 5
    loss = losses.make_stateful("nlnl", num_examples=size, num_classes=num_classes)
    labels = np.zeros(size, int)

    @jax.jit
    def drawn(step):
        def total(logits):
            return loss.apply(logits, labels, step, (), jnp.arange(size))[0].sum()

        return jax.grad(total)(jnp.zeros((size, num_classes))).argmax(-1)

    first, second = (np.asarray(drawn(step)) for step in (0, 1))
    pairs = {
        "steps": (first, second),
        "examples that differ in the last bit": (first[::2], first[1::2]),
        "examples in a row": (first[1:-1:2], first[2::2]),
        "examples 1024 apart": (first[:-1024], first[1024:]),
    }
    for what, (one, other) in pairs.items():
        table = np.zeros((num_classes, num_classes))
        np.add.at(table, (one, other), 1)
        assert table[0].sum() == table[:, 0].sum() == 0  # the given label
        expected = len(one) / (num_classes - 1) ** 2
        # Of 16 cells, at a chance of 1 in 10,000 for an honest draw.
        assert ((table[1:, 1:] - expected) ** 2 / expected).sum() < 44, what


def test_elr_remembers_the_examples_it_has_seen():
    loss = losses.make_stateful("elr", num_examples=10, num_classes=4, beta=0.5)
    memory = loss.init()
    assert memory.shape == (10, 4)
    index = np.array([7, 1, 0, 3, 4, 5])
    step = jax.jit(loss.apply)
    first, memory = map(np.asarray, step(LOGITS, LABELS, 0, memory, index))
    untouched = np.setdiff1d(np.arange(10), index)
    assert np.all(memory[untouched] == 0)
    targets = losses.elr_targets(LOGITS, jnp.zeros_like(LOGITS), beta=0.5)
    np.testing.assert_allclose(memory[index], targets, rtol=1e-5)
    np.testing.assert_allclose(first, losses.elr(LOGITS, LABELS, targets), rtol=1e-5)
    # The nearer the target comes, the lower the loss.
    second, memory = map(np.asarray, step(LOGITS, LABELS, 1, memory, index))
    assert np.all(second < first)
    np.testing.assert_allclose(memory[index].sum(-1), 0.75, rtol=1e-5)
    weighted = losses.make_stateful(
        "elr", num_examples=10, num_classes=4, beta=0.5, regularization_weight=0.0
    )
    value, _ = weighted.apply(LOGITS, LABELS, 0, weighted.init(), index)
    np.testing.assert_allclose(value, losses.ce(LOGITS, LABELS), rtol=1e-5)


def two_values(key, declared):
    """Two values that a hyper-parameter may have, from what is declared of it."""
    if key == "transition_matrix":
        return 0.8 * np.eye(4) + 0.05, np.tri(4) / np.arange(1, 5)[:, None]
    if key == "class_weights":
        return np.ones(4), np.arange(1.0, 5.0)
    if key == "num_negatives":
        return 1, 7
    if declared.kind is bool:
        return True, False
    if get_origin(declared.kind) is Literal:
        return get_args(declared.kind)
    if declared.kind is int:
        least = declared.range.least if declared.range else 0
        return least, least + 1
    low, high, _ = declared.range
    if math.isinf(high):
        return low + 0.3, low + 0.7
    low = max(low, 0)
    return low + 0.02 * (high - low), low + 0.2 * (high - low)


@pytest.mark.parametrize(
    ("name", "hyper"),
    DECLARED,
)
def test_every_hyperparameter_reaches_its_loss(name, hyper):
    options: dict[str, Any] = {"steps_per_epoch": 5}
    if "noise_rate" in losses.accepted(name):
        options["noise_rate"] = 0.2
    if hyper == "transition_matrix":
        options["noise_rate"] = None
    if (name, hyper) == ("ce_sr", "per_epoch"):
        options["regularization_growth"] = 1.1
    values = two_values(hyper, DECLARED[name, hyper])

    def at(value):
        return apply(made(name, **{**options, hyper: value}), step=18)

    first, second = map(at, values)
    assert np.abs(first - second).max() > 1e-4


@pytest.mark.parametrize("name", losses.names())
def test_real_hyperparameters_may_be_traced(name):
    values = {
        hyper: two_values(hyper, DECLARED[name, hyper])[0]
        for hyper in losses.accepted(name)
        # A growth of 1 is a case of its own.
        if hyper not in ("transition_matrix", "regularization_growth")
    }
    traced = {key: value for key, value in values.items() if is_traceable(value)}
    value = jax.eval_shape(lambda numbers: apply(made(name, **numbers)), traced)
    assert value.shape == (6,)


def is_traceable(value):
    return isinstance(value, float | np.ndarray)


def test_defaults_are_the_values_published_for_cifar10():
    for name, published in presets._PRESETS["cifar10"].items():
        published = dict(published)
        # The paper's own choice for most data sets; a growth needs to know the epochs.
        published |= {"phuber_ce": {"tau": 10.0}}.get(name, {})
        published |= {"ce_sr": {"regularization_growth": 1.0}}.get(name, {})
        default, given = (apply(made(name, **p), step=7) for p in ({}, published))
        np.testing.assert_array_equal(default, given, err_msg=name)


def test_released_values_for_cifar100_and_webvision():
    cifar100, webvision = (presets._PRESETS[key] for key in ("cifar100", "webvision"))
    for name in ("sce", "nce_rce", "nce_agce"):
        assert (cifar100[name]["alpha"], cifar100[name]["beta"]) == (10, 0.1)
    for name in ("sce", "nce_rce"):
        assert (webvision[name]["alpha"], webvision[name]["beta"]) == (50, 0.1)
    assert cifar100["gce"] == webvision["gce"] == {"q": 0.7}
    assert cifar100["nlnl"] == {"num_negatives": 110}
    assert cifar100["bi_tempered"] == {"t1": 0.7, "t2": 1.5, "num_iters": 5}
    assert cifar100["taylor_ce"] == {"order": 18}
    assert cifar100["agce"] == {"a": 3.0, "q": 0.7}
    assert webvision["agce"] == {"a": 1e-5, "q": 0.5}
    assert (cifar100["js"], webvision["js"]) == ({"pi": 0.5}, {"pi": 0.1})
    weights = [x["ce_sr"]["regularization_weight"] for x in (cifar100, webvision)]
    assert weights == [8, 2]
    assert (cifar100["dal"]["q_start"], webvision["dal"]["q_start"]) == (0.6, 0.4)


def ends(within):
    """Numbers at the ends of a range that belong to it, and some that do not."""
    low, high, is_open = within
    inside = [low + 1e-9 if "(" in is_open else low] if math.isfinite(low) else [-5]
    outside = [low if "(" in is_open else low - 1e-9] if math.isfinite(low) else []
    if math.isfinite(high):
        inside.append(high - 1e-9 if ")" in is_open else high)
        outside.append(high if ")" in is_open else high + 1e-9)
    return inside, [*outside, float("nan")]


RANGED = [at for at, declared in DECLARED.items() if declared.range is not None]


@pytest.mark.parametrize(("name", "hyper"), RANGED)
def test_ends_of_ranges(name, hyper):
    declared = DECLARED[name, hyper]
    inside, outside = ends(declared.range)
    if declared.kind is int:
        inside, outside = [round(x) for x in inside], [declared.range.least - 1]
    for value in inside:
        declared.check(hyper, value, name)
    for value in outside:
        with pytest.raises(InputError, match=f"{hyper}=.* is out of range"):
            declared.check(hyper, value, name)
    assert declared.default is None or declared.default in declared.range


@pytest.mark.parametrize("name", ["nnce", "anl_ce"])
def test_the_smallest_probability_is_below_the_classes_share(name):
    losses.make(name, num_classes=4, min_probability=0.2499)
    with pytest.raises(InputError, match="expected less than 1 / 4"):
        losses.make(name, num_classes=4, min_probability=0.25)


def test_every_number_has_a_range_that_fits_its_formula():
    without = {hyper for (_, hyper), declared in DECLARED.items() if not declared.range}
    assert without == {
        "bootstrap",
        "class_weights",
        "per_epoch",
        "seed",
        "transition_matrix",
    }
    # Beyond these ends the formulas are not defined, or not losses any more.
    for name, hyper, expected in (
        ("aul", "a", Range(1, math.inf, "(")),
        ("agce", "a", Range(0)),
        ("bi_tempered", "t1", Range(-math.inf, 2, ")")),
        ("ce_sr", "p", Range(0, 1, "(")),
        ("elr", "beta", Range(0, 1)),
        ("forward_correction", "noise_rate", Range(0, 1, ")")),
        ("js", "pi", Range(0, 1, "()")),
        ("phuber_ce", "tau", Range(1)),
        ("taylor_ce", "order", Range(1)),
    ):
        assert DECLARED[name, hyper].range == expected


def test_a_loss_config_keeps_what_was_given():
    config = LossConfig("dal", q_end=2, bootstrap=None)
    assert vars(config) == {"name": "dal", "preset": None, "q_end": 2}
    assert config.q_end == 2
    assert config.bootstrap is None
    assert config == LossConfig(**vars(config))
    assert config != LossConfig("dal", q_end=1.5)
    copied = copy.deepcopy(config)
    copied.q_end = None
    assert copied == LossConfig()
    assert config.hyperparameters == {"q_end": 2}


def test_a_loss_config_of_an_earlier_version_is_the_same():
    written = {"name": "dal", "preset": "cifar10", "per_epoch": True, "t1": None}
    written |= {"q_start": None, "q_end": 2.0, "alpha": None}
    expected = LossConfig("dal", preset="cifar10", per_epoch=True, q_end=2)
    assert LossConfig(**written) == expected


def test_losses_without_a_schedule_take_no_notice_of_per_epoch():
    for per_epoch in (True, False, None):
        losses.make("ce", per_epoch=per_epoch)
