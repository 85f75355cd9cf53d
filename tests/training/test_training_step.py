"""The pure step: what it sums, what it leaves alone, how often it is traced."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses, optimizers
from dal_jax.data.augment import Preprocess
from dal_jax.models import Functional
from dal_jax.training.state import EvalSums, Predictions, TrainMetrics
from dal_jax.training.step import make_eval_step, make_init, make_train_step

CLASSES = 3
# The network is a matrix, the images its inputs: 255 in one place, or scale.
NETWORK = Functional(
    init=lambda key: (
        {"weights": jax.random.normal(key, (CLASSES, CLASSES)) * 0.1},
        {"calls": jnp.zeros((), jnp.int32)},
    ),
    apply=lambda params, state, images, train: (
        images.reshape(-1, CLASSES) @ params["weights"],
        {"calls": state["calls"] + int(train)},
    ),
)


def scale(keys, images):
    return images / 255.0


PLAIN = Preprocess(scale, functools.partial(scale, None))


merge = jax.jit(TrainMetrics.merge)


@functools.cache
def make(
    loss="ce",
    skip_nonfinite=False,
    augment=scale,
    schedule="constant",
    learning_rate=0.05,
    **fields,
):
    rate = optimizers.learning_rate_schedule(
        schedule, learning_rate, num_epochs=10, steps_per_epoch=10
    )
    optimizer = optimizers.create("sgd", rate, **fields)
    stateful = losses.make_stateful(loss, num_examples=6, num_classes=CLASSES)
    step = make_train_step(
        NETWORK,
        Preprocess(augment, PLAIN.evaluate),
        optimizer,
        stateful,
        jax.random.key(1),
        skip_nonfinite=skip_nonfinite,
    )
    init = jax.jit(make_init(NETWORK, optimizer, stateful))
    return init(jax.random.key(0)), jax.jit(step)


def make_batch(labels, scale=255):
    count = len(labels)
    images = np.zeros((count, 1, CLASSES, 1), np.float32)
    images[np.arange(count), 0, np.arange(count) % CLASSES] = scale
    return {
        "inputs": images,
        "labels": np.asarray(labels, np.int32),
        "position": np.arange(count, dtype=np.int32),
        "mask": np.ones(count, bool),
    }


def test_a_step_is_the_gradient_of_the_mean_loss():
    state, step = make(learning_rate=0.5, momentum=0.0)
    batch = make_batch([0, 1, 2, 0])
    weights = state.params["weights"]

    @jax.jit
    @jax.value_and_grad
    def mean(weights):
        logits = batch["inputs"].reshape(-1, CLASSES) / 255 @ weights
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(log_p[jnp.arange(4), batch["labels"]])

    value, gradient = mean(weights)
    expected = np.asarray(weights) - 0.5 * np.asarray(gradient)
    new_state, metrics = step(state, batch)
    np.testing.assert_allclose(new_state.params["weights"], expected, rtol=1e-5)
    assert int(new_state.step) == 1
    assert int(new_state.model_state["calls"]) == 1
    np.testing.assert_allclose(metrics.loss_sum, 4 * float(value), rtol=1e-6)
    assert float(metrics.count) == 4
    assert int(metrics.nonfinite_steps) == 0


def test_a_step_is_pure():
    state, step = make("dal")
    batch = make_batch([0, 1, 2])
    before = jax.tree.map(np.array, (state, batch))
    first, second = step(state, batch), step(state, batch)
    chex.assert_trees_all_equal(first, second)
    chex.assert_trees_all_equal(before, (state, batch))


def test_one_trace_serves_all_steps():
    state, step = make("dal", schedule="cosine")
    traced_once = jax.jit(chex.assert_max_traces(step.__wrapped__, n=1))
    for labels in ([0, 1, 2], [2, 1, 0], [1, 1, 1]) * 3:
        state, _ = traced_once(state, make_batch(labels))
    assert int(state.step) == 9


def test_the_loss_is_given_the_step():
    """With dal, q at the first step is not that of the last."""
    state, step = make("dal")
    late = state.replace(step=np.int32(58_000))
    _, first = step(state, make_batch([0, 1, 2]))
    _, last = step(late, make_batch([0, 1, 2]))
    assert float(first.loss_sum) != pytest.approx(float(last.loss_sum), rel=1e-3)


def test_augmentation_has_a_key_of_step_and_example():
    def spy(keys, images):
        noise = jax.vmap(jax.random.uniform)(keys)
        return images / 255.0 * noise[:, None, None, None]

    state, step = make("ce", augment=spy)
    batch = make_batch([0, 1, 2, 0])
    _, whole = step(state, batch)
    parts = [
        step(state, jax.tree.map(lambda x, rows=rows: x[rows], batch))[1].loss_sum
        for rows in (slice(0, 2), slice(2, 4))
    ]
    # An example meets the same augmentation whatever batch it is in ...
    np.testing.assert_allclose(np.sum(parts), whole.loss_sum, rtol=1e-6)
    # ... but another in the next step.
    _, later = step(state.replace(step=np.int32(1)), batch)
    assert float(later.loss_sum) != pytest.approx(float(whole.loss_sum), rel=1e-4)


def test_a_step_that_is_not_finite_is_reported():
    state, step = make()
    new_state, metrics = step(state.replace(step=np.int32(7)), bad_batch())
    assert int(metrics.nonfinite_steps) == 1
    assert int(metrics.first_nonfinite_step) == 7
    assert float(metrics.count) == 0
    assert float(metrics.loss_sum) == 0
    assert np.isnan(new_state.params["weights"]).any()


def bad_batch():
    return make_batch([0, 1, 2], scale=np.inf)


def test_a_step_that_is_not_finite_is_skipped_by_option():
    state, step = make(skip_nonfinite=True)
    state, _ = step(state, make_batch([0, 1, 2]))
    new_state, metrics = step(state, bad_batch())
    assert int(metrics.nonfinite_steps) == 1
    assert int(new_state.step) == int(state.step) + 1
    chex.assert_trees_all_equal(new_state.replace(step=state.step), state)
    # And the next good one trains again.
    trained, metrics = step(new_state, make_batch([0, 1, 2]))
    assert int(metrics.nonfinite_steps) == 0
    assert (trained.params["weights"] != state.params["weights"]).any()


def test_clipping_bounds_the_step():
    steps = {}
    for norm in (None, 1e-3):
        state, step = make(learning_rate=1.0, momentum=0.0, clip_norm=norm)
        new_state, _ = step(state, make_batch([0, 1, 2]))
        old, new = (np.asarray(s.params["weights"]) for s in (state, new_state))
        steps[norm] = np.linalg.norm(new - old)
    assert steps[None] > 0.1
    assert steps[1e-3] == pytest.approx(1e-3, rel=1e-3)


def test_metrics_of_parts_add_up_to_those_of_the_whole():
    state, step = make("gce")
    batch = make_batch([0, 1, 2, 0, 2])
    _, whole = step(state, batch)
    merged = TrainMetrics.zero()
    for rows in (slice(0, 2), slice(2, 3), slice(3, 5)):
        _, part = step(state, jax.tree.map(lambda x, rows=rows: x[rows], batch))
        merged = merge(merged, part)
    chex.assert_trees_all_close(merged, whole, rtol=1e-6)


def test_metrics_merge_by_hand():
    def metrics(*values):
        return TrainMetrics(*map(np.asarray, values))

    one = metrics(3.0, 2.0, 1, 9, -1.0, 5.0)
    two = metrics(4.0, 5.0, 2, 6, -3.0, 2.0)
    merged = merge(one, two)
    assert [float(x) for x in jax.tree.leaves(merged)] == [7, 7, 3, 6, -3, 5]
    chex.assert_trees_all_equal(merge(one, TrainMetrics.zero()), one)


def test_memorized_and_corrected_by_hand():
    """Six examples, one of them padding, through a network that says the image."""
    network = Functional(NETWORK.init, lambda p, s, x, train: (x.reshape(-1, 3), s))
    evaluate = make_eval_step(network, PLAIN)
    predicted = [0, 1, 2, 0, 1, 2]
    given = [0, 1, 1, 2, 0, 2]
    clean = [0, 2, 2, 1, 0, 1]
    mask = [True, True, True, True, True, False]
    batch = {
        "inputs": 255 * np.eye(3, dtype=np.float32)[predicted][:, None, :, None],
        "labels": np.array(given),
        "clean_labels": np.array(clean),
        "mask": np.array(mask),
    }
    sums, logits = jax.jit(evaluate)({}, {}, batch)
    # 0 right and predicted; 1 wrong, memorized; 2 wrong, corrected; 3 wrong, neither;
    # 4 right, not predicted; 5 would be wrong and memorized, but is padding.
    expected = EvalSums(count=5, correct=2, mislabelled=3, memorized=1, corrected=1)
    assert np.argmax(logits, axis=-1).tolist() == predicted
    assert [float(x) for x in jax.tree.leaves(sums)] == [
        float(x) for x in jax.tree.leaves(expected)
    ]


def test_predictions_go_to_their_places_and_padding_nowhere():
    @jax.jit
    def predict(logits, position, mask):
        return Predictions.none(4).with_batch(Predictions.of(logits), position, mask)

    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    position, mask = np.array([3, 1, 0]), np.array([True, True, False])
    found = predict(logits, position, mask)
    assert found.predicted.tolist() == [-1, 2, -1, 0]
    np.testing.assert_allclose(found.probability, [0, 0.6, 0, 0.7], rtol=1e-6)
    # However large the logits.
    assert predict(1e4 * np.eye(3), position, mask).probability.tolist() == [0, 1, 0, 1]
