import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import CIFAR_SCHEDULE, dal_schedule
from dal_jax.errors import InputError

RELEASED = Path(__file__).parent / "golden" / "schedule.json"


def naive(step, total_steps, q_start, q_end):
    q = q_start + (q_end - q_start) * step / total_steps
    first = (1 - q_start) / (q_end - q_start) * total_steps  # where q is 1
    return q, max(0.0, (step - first) / (total_steps - first))


@pytest.mark.parametrize("step", [0, 1, 39, 45, 60, 89, 90])
def test_follows_the_paper(step):
    q, weight = dal_schedule(90)(step)
    expected = naive(step, 90, 0.6, 1.5)
    np.testing.assert_allclose((q, weight), expected, atol=1e-6)


@pytest.mark.parametrize(
    "setting", ["qs=0.6,qe=1.5,epochs=150", "qs=0.4,qe=1.5,epochs=250"]
)
@pytest.mark.parametrize("place", [0, 390], ids=["first step", "last step"])
def test_holds_the_released_value_in_every_epoch(setting, place):
    released = json.loads(RELEASED.read_text())[setting]
    q_start, q_end, epochs = (float(x.split("=")[1]) for x in setting.split(","))
    schedule = dal_schedule(
        int(epochs) * 391, q_start=q_start, q_end=q_end, steps_per_epoch=391
    )
    q, weight = schedule(jnp.arange(int(epochs)) * 391 + place)
    np.testing.assert_allclose(q, released["q"], rtol=3e-7)
    np.testing.assert_allclose(weight, released["lam"], atol=2e-6)


def test_the_default_is_the_released_cifar_recipe():
    assert CIFAR_SCHEDULE(0) == CIFAR_SCHEDULE(390)
    np.testing.assert_allclose(CIFAR_SCHEDULE(391), (0.606, 0), rtol=1e-6)
    np.testing.assert_allclose(CIFAR_SCHEDULE(10**6), (1.494, 0.988), rtol=1e-6)


def test_keeps_the_ends_beyond_them():
    schedule = dal_schedule(100)
    assert schedule(-7) == schedule(0)
    assert schedule(100) == schedule(10**9)
    np.testing.assert_array_equal(schedule(100), np.array([1.5, 1.0], np.float32))
    held = dal_schedule(100, steps_per_epoch=30)
    assert held(-7) == held(29)
    assert held(90) == held(1_000)
    assert held(89) != held(90)


@pytest.mark.parametrize("q_end", [0.6, 0.9, 1.0])
def test_never_bootstraps_when_q_ends_at_one_or_below(q_end):
    steps = jnp.arange(-5, 120)
    q, weight = dal_schedule(100, q_end=q_end)(steps)
    np.testing.assert_array_equal(weight, np.zeros(125))
    assert np.all(q <= max(0.6, q_end) + 1e-6)


def test_weight_is_never_negative_and_sets_in_at_one():
    q, weight = dal_schedule(1_000)(jnp.arange(1_001))
    np.testing.assert_array_equal(weight > 0, q > 1)
    assert np.all(np.diff(weight) >= 0)


def test_all_parameters_may_be_traced():
    def at(total_steps, q_start, q_end):
        return dal_schedule(total_steps, q_start=q_start, q_end=q_end)(40)

    sweep = (jnp.array([50, 80, 400]), jnp.array([0.4, 0.6, 1]), jnp.array([1.5, 1, 2]))
    q, weight = jax.jit(jax.vmap(at))(*sweep)
    expected = [at(*point) for point in zip(*sweep, strict=True)]
    np.testing.assert_allclose(np.stack([q, weight], -1), expected, rtol=1e-6)


def test_derivatives_by_its_ends_are_finite_at_one():
    def weight(q_end):
        return dal_schedule(10, q_start=1.2, q_end=q_end)(5).bootstrap_weight

    assert np.isfinite(jax.grad(weight)(1.0))


def test_a_new_step_traces_nothing():
    schedule = jax.jit(chex.assert_max_traces(dal_schedule(100), n=1))
    values = [float(schedule(step).q) for step in range(5)]
    assert len(set(values)) == 5


@pytest.mark.parametrize(
    "parameter", ["total_steps", "q_start", "q_end", "steps_per_epoch"]
)
def test_names_a_parameter_out_of_range(parameter):
    with pytest.raises(InputError, match=rf"^{parameter} is -1, but at least") as error:
        dal_schedule(**{"total_steps": 10, parameter: -1})
    assert "\n" not in str(error.value)
