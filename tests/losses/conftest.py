import jax
import pytest


@pytest.fixture
def x64():
    """Computes in float64 within a test."""
    with jax.enable_x64(True):
        yield
