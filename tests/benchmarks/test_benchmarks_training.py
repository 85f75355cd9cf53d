"""The benchmarks that drive the compiled training step themselves."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.mark.slow
def test_gathering_times_epochs_of_both_kinds():
    import gathering

    case = gathering.Case(32, (4, 4, 1), batch_size=16, hidden=(8,), flip=False)
    seconds = gathering.measure(case, rounds=2)
    assert seconds.keys() == {"gathering", "not gathering"}
    assert all(len(of) == 2 and min(of) > 0 for of in seconds.values())


@pytest.mark.slow
def test_a_loop_of_steps_trains_and_counts_what_the_host_does():
    import jax_loop

    case = jax_loop.Case("cnn", (4, 4, 1), batch_size=16, examples=32)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, 4, 4, 1), np.uint8)
    trained = jax_loop.Trained(case, "float32", images, rng.integers(0, 10, 32))
    trained.epoch()
    assert trained.steps == 2
    assert 0 < trained.host_seconds_per_step(repetitions=1) < 1
