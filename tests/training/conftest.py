import pytest


@pytest.fixture(autouse=True)
def _compile_once(compilation_cache):
    """Many runs here are of the same programs."""
