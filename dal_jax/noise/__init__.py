"""Turns clean labels into noisy labels, and records what was done.

Everything here computes with numpy and is decided by its seed. :func:`apply` makes
every kind of noise by name; the other functions are the kinds themselves.
"""

from dal_jax.noise.class_maps import CLASS_MAPS, blocks_of_five, class_map_for
from dal_jax.noise.files import from_file
from dal_jax.noise.instance import instance_dependent
from dal_jax.noise.matrices import matrix_of
from dal_jax.noise.record import NoiseRecord
from dal_jax.noise.registry import apply, kinds
from dal_jax.noise.transition import (
    asymmetric,
    from_transition_matrix,
    pair_flip,
    symmetric,
    symmetric_other,
)

__all__ = [
    "CLASS_MAPS",
    "NoiseRecord",
    "apply",
    "asymmetric",
    "blocks_of_five",
    "class_map_for",
    "from_file",
    "from_transition_matrix",
    "instance_dependent",
    "kinds",
    "matrix_of",
    "pair_flip",
    "symmetric",
    "symmetric_other",
]
