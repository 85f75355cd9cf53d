import contextlib

import jax
import pytest

from dal_jax.losses import summation


@contextlib.contextmanager
def optimizations(*, few: bool):
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", few)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(autouse=True, scope="module")
def few_optimizations():
    """Compiles in two thirds of the time; arrays are small and nothing is timed."""
    with optimizations(few=True):
        yield


@pytest.fixture
def all_optimizations():
    """For what is said of a compiled program's memory."""
    with optimizations(few=False):
        yield


@pytest.fixture
def x64():
    """Computes in float64 within a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def as_for_large_arrays(monkeypatch):
    """Small arrays summed in loops too."""
    monkeypatch.setattr(summation, "_SMALL", 0)
