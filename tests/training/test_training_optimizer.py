"""The optimizer against PyTorch's formulas, and the learning rate over time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dal_jax.config import OptimizerConfig
from dal_jax.errors import InputError
from dal_jax.recipe import make_optimizer


def train(config, params, gradients):
    optimizer, _ = make_optimizer(config, 10, 10)
    params = jnp.asarray(params)
    state = optimizer.init(params)
    course = []
    for step, gradient in enumerate(gradients):
        updates, state = optimizer.update(
            jnp.asarray(gradient), state, params, step=step
        )
        params = optax.apply_updates(params, updates)
        course.append(np.asarray(params))
    return np.array(course)


def test_momentum_and_weight_decay_by_hand():
    """One parameter at 1, gradient always 0.5, each step worked out on paper."""
    config = OptimizerConfig(
        learning_rate=0.1, momentum=0.9, weight_decay=0.01, schedule="constant"
    )
    course = train(config, 1.0, [0.5] * 3)
    np.testing.assert_allclose(course, [0.949, 0.852151, 0.714134749], rtol=1e-6)


def test_nesterov_by_hand():
    config = OptimizerConfig(
        learning_rate=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.01,
        schedule="constant",
    )
    course = train(config, 1.0, [0.5] * 2)
    np.testing.assert_allclose(course, [0.9031, 0.76507411], rtol=1e-6)


def test_the_norm_is_clipped_before_weight_decay():
    config = OptimizerConfig(
        learning_rate=1.0,
        momentum=0.0,
        weight_decay=0.5,
        schedule="constant",
        clip_norm=1.0,
    )
    # (3, 4) has norm 5 and becomes (0.6, 0.8); decay then adds half the parameters.
    course = train(config, [2.0, 2.0], [[3.0, 4.0]])
    np.testing.assert_allclose(course[0], [0.4, 0.2], rtol=1e-6)


def test_a_small_gradient_is_not_clipped():
    config = OptimizerConfig(
        learning_rate=1.0, momentum=0.0, schedule="constant", clip_norm=1.0
    )
    course = train(config, [0.0, 0.0], [[0.3, 0.4]])
    np.testing.assert_allclose(course[0], [-0.3, -0.4], rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_many_steps_are_those_of_pytorch_s_documented_rule(nesterov):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(20, 5))
    parameter, velocity, expected = start, np.zeros(5), []
    for gradient in gradients:
        gradient = gradient + 0.02 * parameter
        velocity = 0.9 * velocity + gradient
        direction = gradient + 0.9 * velocity if nesterov else velocity
        parameter = parameter - 0.05 * direction
        expected.append(parameter)
    config = OptimizerConfig(
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=0.02,
        nesterov=nesterov,
        schedule="constant",
    )
    found = train(config, start.astype(np.float32), gradients.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


EPOCHS, STEPS = 8, 5


def rates(**fields):
    config = OptimizerConfig(learning_rate=0.4, **fields)
    schedule = make_optimizer(config, EPOCHS, STEPS)[1]
    return np.array([float(schedule(step)) for step in range(EPOCHS * STEPS + 1)])


def test_cosine_of_the_step():
    total = EPOCHS * STEPS
    expected = [0.2 * (1 + math.cos(math.pi * t / total)) for t in range(total + 1)]
    np.testing.assert_allclose(rates(schedule="cosine"), expected, atol=1e-7)


def test_cosine_of_the_epoch_as_torch_steps_it():
    got = rates(schedule="cosine", per_epoch=True)
    for epoch in range(EPOCHS):
        expected = 0.2 * (1 + math.cos(math.pi * epoch / EPOCHS))
        within = got[epoch * STEPS : (epoch + 1) * STEPS]
        np.testing.assert_allclose(within, expected, atol=1e-7)


def test_exponential_of_the_epoch_as_torch_steps_it():
    got = rates(schedule="exponential", per_epoch=True, decay_rate=0.97)
    expected = [0.4 * 0.97 ** (step // STEPS) for step in range(len(got))]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_exponential_of_the_step_meets_it_at_the_epochs():
    got = rates(schedule="exponential", decay_rate=0.5)
    np.testing.assert_allclose(got[::STEPS], 0.4 * 0.5 ** np.arange(9), rtol=1e-6)
    assert (np.diff(got) < 0).all()


def test_steps_after_some_epochs():
    got = rates(
        schedule="step", decay_rate=0.1, decay_epochs=(2.0, 4.4), warmup_epochs=1
    )
    expected = np.full(EPOCHS * STEPS + 1, 0.4)
    expected[:5] = 0.4 * np.arange(5) / 5
    expected[10:] *= 0.1
    expected[22:] *= 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for wrong in (), (4.0, 2.0), (2.0, 2.0):
        with pytest.raises(InputError, match="decay_epochs"):
            rates(schedule="step", decay_epochs=wrong)


def test_constant():
    assert set(rates(schedule="constant").round(7)) == {0.4}


def test_warmup_rises_to_the_peak_and_the_curve_follows():
    got = rates(schedule="cosine", warmup_epochs=2)
    np.testing.assert_allclose(got[:11], 0.4 * np.arange(11) / 10, atol=1e-7)
    left = [0.2 * (1 + math.cos(math.pi * t / 30)) for t in range(31)]
    np.testing.assert_allclose(got[10:], left, atol=1e-7)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("decay_rate", 0.0),
        ("decay_rate", 1.1),
        ("clip_norm", 0.0),
        ("warmup_epochs", -1.0),
        ("warmup_epochs", 9.0),
        ("schedule", "linear"),
    ],
)
def test_numbers_that_make_no_schedule(field, value):
    with pytest.raises(InputError, match=field):
        make_optimizer(OptimizerConfig(**{field: value}), EPOCHS, STEPS)[1]


def test_adamw_by_hand():
    """Bias-corrected moments of one gradient are it and its square."""
    config = OptimizerConfig(
        name="adamw", learning_rate=0.1, weight_decay=0.5, schedule="constant"
    )
    course = train(config, [2.0, -1.0], [[3.0, -4.0]])
    # A step of 0.1 against the gradient's sign, and 0.1 * 0.5 of the parameter.
    np.testing.assert_allclose(course[0], [1.8, -0.85], rtol=1e-6)


def test_lion_by_hand():
    config = OptimizerConfig(name="lion", learning_rate=0.1, schedule="constant")
    course = train(config, [2.0, -1.0], [[3.0, -4.0], [-0.1, 0.1]])
    # After the second gradient b1 m + (1 - b1) g is .9 * .03 - .01 and -.036 + .01.
    np.testing.assert_allclose(course, [[1.9, -0.9], [1.8, -0.8]], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
@pytest.mark.parametrize("decay_vectors", [False, True])
def test_decay_may_leave_vectors_alone(name, decay_vectors):
    config = OptimizerConfig(
        name=name,
        learning_rate=0.1,
        weight_decay=0.5,
        decay_vectors=decay_vectors,
        schedule="constant",
    )
    optimizer, _ = make_optimizer(config, 10, 10)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params, step=0)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], -0.05 * decay_vectors, rtol=1e-6)
