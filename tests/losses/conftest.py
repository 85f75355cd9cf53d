import jax
import pytest

from dal_jax.losses import summation


@pytest.fixture
def x64():
    """Computes in float64 within a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def as_for_large_arrays(monkeypatch):
    """Small arrays summed in loops too."""
    monkeypatch.setattr(summation, "_SMALL", 0)
