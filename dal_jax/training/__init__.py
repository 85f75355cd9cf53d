"""Training: the pure step, the devices, the loop and what it writes.

:func:`fit` takes objects; :func:`train_and_evaluate` takes a configuration, whose names
:mod:`dal_jax.recipe` turns into objects first.
"""

from typing import TYPE_CHECKING, Any

from dal_jax.training.fit import FitResult, fit
from dal_jax.training.run import NonFiniteError
from dal_jax.training.stopping import Interrupted, Stop
from dal_jax.training.storing import StorageError

if TYPE_CHECKING:
    from dal_jax.trainer import train_and_evaluate

__all__ = [
    "FitResult",
    "Interrupted",
    "NonFiniteError",
    "Stop",
    "StorageError",
    "fit",
    "train_and_evaluate",
]


def __getattr__(name: str) -> Any:
    # It imports this package, which therefore knows it by name alone.
    if name == "train_and_evaluate":
        from dal_jax.trainer import train_and_evaluate

        return train_and_evaluate
    raise AttributeError(f"module 'dal_jax.training' has no attribute {name!r}")
