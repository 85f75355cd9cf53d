"""Dynamics-Aware Loss for learning with label noise, in JAX.

Names are imported when they are first used; the losses import only jax, numpy and chex.
Import the trainer (``dal_jax.training``), the data sources and the models by name.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dal_jax import losses, noise
    from dal_jax.inference import load
    from dal_jax.losses.dal import dal_loss, dal_objective
    from dal_jax.schedules import CIFAR_SCHEDULE, DALCoefficients, dal_schedule

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

_HOMES = {
    "CIFAR_SCHEDULE": "dal_jax.schedules",
    "DALCoefficients": "dal_jax.schedules",
    "dal_loss": "dal_jax.losses.dal",
    "dal_objective": "dal_jax.losses.dal",
    "dal_schedule": "dal_jax.schedules",
    "load": "dal_jax.inference",
}


def __getattr__(name: str) -> Any:
    if name in ("losses", "noise"):
        return importlib.import_module(f"dal_jax.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dal_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
