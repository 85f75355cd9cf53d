"""One seed decides everything; each source of randomness can be varied alone."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from dal_jax import losses, recipe
from dal_jax.config import AugmentationConfig, DatasetConfig, ModelConfig, TrainConfig
from dal_jax.training import experiment as experiments
from dal_jax.training import fit
from dal_jax.training.plan import make_plan
from dal_jax.training.state import TrainMetrics


def make_config(loss_name="ce", **seeds):
    config = TrainConfig(
        dataset=DatasetConfig(train_size=128, test_size=50),
        model=ModelConfig("linear"),
        augmentation=AugmentationConfig(flip=True),
        num_epochs=2,
        batch_size=32,
        train_eval_size=0,
    )
    config.loss.name = loss_name
    for field, value in seeds.items():
        if field == "noise":
            config.noise.seed = value
        elif field == "seed":
            config.seed = value
        else:
            setattr(config.seeds, field, value)
    return config


def sources(config):
    """Returns what each source of randomness made, and what a step made of all."""
    prepared = recipe.prepare(config)
    experiment = experiments.build(make_plan(**recipe.ingredients(config, prepared)))
    state = experiment.init()
    initial = jax.tree.map(np.array, state.params)
    zero = experiment.parallel.place_data(TrainMetrics.zero())
    # The same batch for all, so that the order does not show in the step.
    order = np.arange(32, dtype=np.int32)[None]
    stepped, _ = experiment.run_train(experiment.context, (state, zero), order, 0, 1)
    return {
        "noise": prepared.record.noisy_labels,
        "data_order": np.stack([experiment.order(epoch) for epoch in range(2)]),
        "initialization": initial,
        "step": jax.tree.map(np.array, stepped.params),
    }


def differing(one, other):
    def same(a, b):
        leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(np.array_equal(x, y) for x, y in leaves)

    return {name for name in one if not same(one[name], other[name])}


@pytest.fixture(scope="module")
def base():
    return sources(make_config())


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("data_order", {"data_order"}),
        ("initialization", {"initialization", "step"}),
        ("noise", {"noise", "step"}),
        ("augmentation", {"step"}),
        ("loss", set()),
        ("seed", {"noise", "data_order", "initialization", "step"}),
    ],
)
def test_a_seed_changes_its_own_source_alone(field, changes, base):
    assert differing(sources(make_config(**{field: 7})), base) == changes


@pytest.mark.skipif("nlnl" not in losses.names(), reason="needs a loss that draws")
def test_the_seed_of_a_loss_that_draws():
    base = sources(make_config("nlnl"))
    assert differing(sources(make_config("nlnl")), base) == set()
    assert differing(sources(make_config("nlnl", loss=7)), base) == {"step"}


def test_a_derived_seed_can_be_written_out(base):
    """Overriding a source by the run's own seed is no change: the run is the same."""
    names = [field.name for field in dataclasses.fields(make_config().seeds)]
    config = make_config(noise=0, **dict.fromkeys(names, 0))
    assert differing(sources(config), base) == set()


def test_two_whole_runs_are_the_same_bit_for_bit():
    one, two = (
        fit(**recipe.ingredients(config, recipe.prepare(config)))
        for config in (make_config(), make_config())
    )
    chex.assert_trees_all_equal(one.state, two.state)
    assert len(jax.tree.leaves(one.params)) == 2

    def untimed(entries):
        return [{k: v for k, v in e.items() if "second" not in k} for e in entries]

    assert untimed(one.metrics) == untimed(two.metrics)
    assert [entry["epoch"] for entry in one.metrics] == [1, 2]
