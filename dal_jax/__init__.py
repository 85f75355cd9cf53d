"""Dynamics-Aware Loss for learning with label noise, in JAX.

This module and the losses import only jax, numpy and chex. Import the trainer
(``dal_jax.training``), the data sources and the models by name.
"""

from typing import TYPE_CHECKING, Any

from dal_jax import losses
from dal_jax.losses.dal import dal_loss, dal_objective
from dal_jax.schedules import CIFAR_SCHEDULE, DALCoefficients, dal_schedule

if TYPE_CHECKING:
    from dal_jax import noise
    from dal_jax.inference import load

__version__ = "0.2.0.dev0"

__all__ = [
    "CIFAR_SCHEDULE",
    "DALCoefficients",
    "dal_loss",
    "dal_objective",
    "dal_schedule",
    "load",
    "losses",
    "noise",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "noise":
        return importlib.import_module("dal_jax.noise")
    if name == "load":
        return importlib.import_module("dal_jax.inference").load
    raise AttributeError(f"module 'dal_jax' has no attribute {name!r}")
