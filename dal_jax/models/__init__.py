"""Networks: the package's own by name, and any other as pure functions.

:func:`create` returns a Flax NNX module with random weights or weights from a file, and
:func:`save_weights` writes such a file. :func:`functionalize` turns an NNX or Linen
module into the two functions that training uses.
"""

from dal_jax.models.create import create, describe_weights, names, options
from dal_jax.models.features import feature_function
from dal_jax.models.functional import Functional, functionalize
from dal_jax.models.heads import freeze_backbone, is_head
from dal_jax.models.normalization import Normalization, normalization
from dal_jax.models.weights import save_weights

__all__ = [
    "Functional",
    "Normalization",
    "create",
    "describe_weights",
    "feature_function",
    "freeze_backbone",
    "functionalize",
    "is_head",
    "names",
    "normalization",
    "options",
    "save_weights",
]
