"""Mixed examples, labels that are distributions, and classes drawn evenly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import log_softmax

from dal_jax import losses, recipe
from dal_jax.config import AugmentationConfig, DatasetConfig, NoiseConfig, TrainConfig
from dal_jax.data import Split
from dal_jax.errors import InputError
from dal_jax.training import checks, fit
from dal_jax.training.mixup import make_mixup

CLASSES = 3
INPUTS = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
LABELS = np.array([0] * 8 + [1] * 3 + [2])


def test_examples_are_mixed_with_the_ones_before():
    mix, key, inputs = make_mixup(0.7, CLASSES), jax.random.key(9), INPUTS[:4]
    labels = np.array([0, 2, 1, 1])
    one_hot = np.eye(CLASSES, dtype=np.float32)[labels]
    of_numbers, of_shares = jax.jit(
        lambda key: [
            mix(key, jnp.asarray(inputs), jnp.asarray(y)) for y in (labels, one_hot)
        ]
    )(key)
    # The first example's class is another than the last one's, which is before it.
    part, others = np.asarray(of_numbers[1])[0, 0], [3, 0, 1, 2]
    assert 0 < part < 1
    for mixed, shares in (of_numbers, of_shares):
        expected = part * inputs + (1 - part) * inputs[others]
        np.testing.assert_allclose(mixed, expected, rtol=1e-6)
        expected = part * one_hot + (1 - part) * one_hot[others]
        np.testing.assert_allclose(shares, expected, rtol=1e-6)
    half = jax.ShapeDtypeStruct(inputs.shape, jnp.bfloat16)
    assert jax.eval_shape(mix, key, half, labels)[0].dtype == jnp.bfloat16


@jax.jit
def draw_shares(alpha):
    """Shares of 4,000 steps, for which any alpha has the same program."""
    mix, inputs, labels = make_mixup(alpha, CLASSES), jnp.arange(2.0), jnp.arange(2)
    keys = jax.random.split(jax.random.key(0), 4000)
    return jax.vmap(lambda key: mix(key, inputs, labels)[0][1])(keys)


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_shares_are_of_the_beta_distribution(alpha):
    shares = np.asarray(draw_shares(alpha))
    # Its mean is 1/2, its variance 1 / (4 (2 alpha + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert np.var(shares) == pytest.approx(1 / (8 * alpha + 4), rel=0.08)


def test_the_losses_that_take_no_distributions_are_refused():
    refused = []
    for name in losses.names():
        rate = {"noise_rate": 0.4} if "correction" in name else {}
        loss = losses.make_stateful(name, num_examples=5, num_classes=CLASSES, **rate)
        try:
            checks.check_takes_distributions(loss, name, CLASSES)
        except InputError:
            refused.append(name)
    assert refused == ["backward_correction", "nlnl"]


def train(train=(INPUTS, LABELS), loss="ce", epochs=2, **options):
    """Linear, from zero: its logits are then known."""

    def network(rngs):
        zeros = nnx.initializers.zeros
        return nnx.Linear(2, CLASSES, kernel_init=zeros, rngs=rngs)

    name, loss = loss, losses.make_stateful(loss, num_examples=12, num_classes=CLASSES)
    return fit(
        network,
        train,
        loss=loss,
        loss_name=name,
        optimizer=optax.sgd(0.5),
        num_epochs=epochs,
        batch_size=4,
        train_eval_size=0,
        **options,
    )


def test_what_is_gathered_is_of_the_examples_as_they_are():
    """The network stays as it is: its logits of plain inputs are known."""
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    network = (
        lambda key: ({"w": jnp.asarray(weights)}, {}),
        lambda params, state, inputs, train: (inputs @ params["w"], state),
    )
    result = fit(
        network,
        (INPUTS, LABELS),
        loss=losses.make("ce"),
        optimizer=optax.sgd(0.0),
        num_epochs=2,
        batch_size=4,
        train_eval_size=0,
        mixup=1.0,
    )
    log_p = log_softmax(INPUTS @ weights, axis=-1)
    expected = np.exp(log_p)[np.arange(12), LABELS]
    found = result.dynamics["mean_given_probability"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    plain = -log_p[np.arange(12), LABELS].mean()
    assert result.metrics[-1]["train_loss"] != pytest.approx(plain, rel=1e-3)


def test_every_step_and_every_seed_has_a_share_of_its_own():
    """Of two examples: the squares of their labels tell the share, in any order."""
    network = (
        lambda key: ({"w": jnp.zeros((2, 2))}, {}),
        lambda params, state, inputs, train: (inputs @ params["w"], state),
    )

    def squares(logits, labels, step):
        return jnp.sum(labels**2 + 0 * logits, axis=-1)

    shares = [
        entry["train_loss"]
        for seed in (0, 1)
        for entry in fit(
            network,
            (INPUTS[:2], np.array([0, 1])),
            loss=squares,
            optimizer=optax.sgd(0.0),
            num_epochs=3,
            batch_size=2,
            train_eval_size=0,
            seed=seed,
            mixup=1.0,
        ).metrics
    ]
    assert len(set(shares)) == 6


def test_the_loss_alone_is_given_distributions():
    """Shares that contradict the labels: the network learns the shares."""
    shares = np.eye(CLASSES, dtype=np.float32)[(LABELS + 1) % CLASSES]
    split = Split(INPUTS, LABELS, label_distributions=shares)
    result = train(split, epochs=1)
    reference = train((INPUTS, (LABELS + 1) % CLASSES), epochs=1)
    for leaf, expected in zip(
        jax.tree.leaves(result.params), jax.tree.leaves(reference.params), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(result.plan.record.noisy_labels, LABELS)


def test_what_is_seen_of_classes_drawn_evenly():
    result = train(balance="classes", epochs=4)
    seen = result.dynamics["num_seen"]
    assert seen.sum() == 4 * 12
    assert [seen[k == LABELS].sum() for k in range(CLASSES)] == [16, 16, 16]
    assert seen[LABELS == 0].tolist() == [2] * 8
    # Frequent examples miss epochs, whose columns show what was seen before.
    assert (result.dynamics["history"] > 0).all()


def test_an_example_that_comes_twice_is_forgotten_once():
    from dal_jax.training import dynamics

    phases = dynamics.make_phases(total_steps=4, num_epochs=2)
    state = dynamics.init(2, 2, phases)
    right, wrong = jnp.array([[1.0, 0.0]] * 2), jnp.array([[0.0, 1.0]] * 2)
    observe = jax.jit(dynamics.observe, static_argnums=5)
    for step, logits in enumerate((right, wrong)):
        state = observe(
            state, logits, jnp.array([0, 0]), jnp.array([1, 1]), step, phases
        )
    told = dynamics.summary(state)
    assert told["forgetting_events"].tolist() == [0, 1]
    assert told["num_seen"].tolist() == [0, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "elr", "mixup": 1.0}, "'elr' remembers"),
        ({"loss": "nlnl", "mixup": 1.0}, "'nlnl' takes no distributions"),
        ({"train": (np.ones((12, 2), int), LABELS), "mixup": 1.0}, "mixup of int32"),
        ({"mixup": -1.0}, "mixup=-1.0 is out of range"),
        ({"balance": "class"}, "unknown balance 'class': did you mean 'classes'"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        train(**options)


def test_distributions_that_do_not_fit():
    shares = np.full((12, 2), 0.5, np.float32)
    with pytest.raises(InputError, match="over 2 classes and the network has 3"):
        train(Split(INPUTS, LABELS, label_distributions=shares))
    with pytest.raises(InputError, match="12 label distributions are none"):
        Split(INPUTS, LABELS, label_distributions=shares / 2)


def test_noise_and_annotators_shares_do_not_go_together(tmp_path):
    path = tmp_path / "given.npy"
    np.save(path, np.zeros((1797, 2), int))
    dataset = DatasetConfig(annotators_path=str(path), annotators="distribution")
    with pytest.raises(InputError, match=r"noise\.kind=symmetric with"):
        recipe.check(TrainConfig(dataset=dataset))
    config = TrainConfig(
        dataset=dataset,
        noise=NoiseConfig("none"),
        augmentation=AugmentationConfig(mixup=0.5),
    )
    recipe.check(config)
    config.dataset.balance = "classes"
    objects = recipe.ingredients(config, recipe.prepare(config))
    assert (objects["mixup"], objects["balance"]) == (0.5, "classes")
    assert objects["train"].label_distributions.shape == (1297, 10)
