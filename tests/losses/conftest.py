import contextlib

import jax
import pytest


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
def choose_platform(monkeypatch):
    """Lets every choice between platforms fall on the given one; "default" is a TPU."""

    def choose(platform):
        def chosen(*arguments, default, **forms):
            return forms.get(platform, default)(*arguments)

        monkeypatch.setattr(jax.lax, "platform_dependent", chosen)

    return choose
