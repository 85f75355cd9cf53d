"""Every source of randomness from one seed, by name.

A run has one ``seed``. Data order, noise, initialisation, augmentation and the random
numbers of a loss each have their own generator, derived from that seed and the source's
name. So you can vary one of them without changing the others.
"""

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax


def numpy_rng(seed: int, name: str) -> np.random.Generator:
    """Returns the numpy generator of one named source of randomness.

    Args:
      seed: the run's seed, at least 0.
      name: the source, e.g. ``"noise"``.

    Returns:
      A generator that depends on both and on nothing else.

    Example:
      >>> a, b = numpy_rng(0, "noise"), numpy_rng(0, "noise")
      >>> bool(a.integers(100) == b.integers(100))
      True
    """
    return np.random.default_rng([seed, _digest(name)])


def jax_key(seed: int, name: str) -> "jax.Array":
    """Returns the typed JAX key of one named source of randomness.

    Args:
      seed: the run's seed, at least 0.
      name: the source, e.g. ``"initialization"``.

    Returns:
      A scalar typed key that depends on both and on nothing else.

    Example:
      >>> import jax
      >>> key = jax_key(0, "initialization")
      >>> bool(jax.random.bits(key) == jax.random.bits(jax_key(0, "augmentation")))
      False
    """
    import jax

    return jax.random.fold_in(jax.random.key(seed), _digest(name))


def _digest(name: str) -> int:
    # Python's own hash() is salted in every process.
    return zlib.crc32(name.encode())
