"""The arrays of a pytree: by name, by kind, and their digest."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def by_name(tree: PyTree) -> dict[str, Any]:
    """Returns a tree's leaves by their dotted names, in the tree's order.

    Example:
      >>> by_name({"params": [1, 2]})
      {'params.0': 1, 'params.1': 2}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name(path): leaf for path, leaf in leaves}


def name(path: Any) -> str:
    """Returns the dotted name of a leaf's path, the same for fields and for keys."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def kind(leaf: Any) -> str:
    """Returns a leaf's dtype and shape; those of its data for a PRNG key.

    Args:
      leaf: anything with a shape and a dtype, or ``None``.

    Example:
      >>> kind(jnp.zeros((2, 3))), kind(None)
      ('float32[2, 3]', 'missing')
    """
    if leaf is None:
        return "missing"
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def digest(arrays: PyTree) -> int:
    """Returns a CRC-32 of all values in the tree's order.

    Arrays that are not replicated are left out: with several processes none holds the
    whole of them.

    Example:
      >>> digest({"w": jnp.ones(2)}) == digest({"w": jnp.zeros(2)})
      False
    """
    crc = 0
    for leaf in jax.tree.leaves(arrays):
        if isinstance(leaf, jax.Array):
            if _is_key(leaf):
                leaf = jax.random.key_data(leaf)
            if not leaf.is_fully_replicated:
                continue
            leaf = leaf.addressable_data(0)
        crc = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, crc)
    return crc


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
