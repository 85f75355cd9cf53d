"""Networks by name, as pure functions of a pytree of parameters.

:func:`functionalize` is all that the rest of the package uses; :func:`build` gives
the Flax module itself.
"""

from dal_jax.models.functional import Functional, build, functionalize, names

__all__ = ["Functional", "build", "functionalize", "names"]
