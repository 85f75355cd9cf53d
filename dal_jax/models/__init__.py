"""Networks: the package's own by name, and any other as pure functions.

:func:`create` gives a Flax NNX module; :func:`functionalize` turns an NNX or Linen
module into the two functions that training is made of.
"""

from dal_jax.models.create import create, names, options
from dal_jax.models.functional import Functional, functionalize

__all__ = ["Functional", "create", "functionalize", "names", "options"]
