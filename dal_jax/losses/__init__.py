"""Losses for learning with label noise, pure and unreduced.

Logits ``[..., num_classes]``; integer labels ``[...]`` or distributions over the
classes ``[..., num_classes]``; the loss of each example ``[...]``. :func:`make` builds
any of them by name.
"""

from dal_jax.losses import presets
from dal_jax.losses.dal import ce, dal_loss, dal_objective, gce, mae
from dal_jax.losses.registry import (
    Loss,
    StatefulLoss,
    accepted,
    make,
    make_stateful,
    names,
)

__all__ = [
    "Loss",
    "StatefulLoss",
    "accepted",
    "ce",
    "dal_loss",
    "dal_objective",
    "gce",
    "mae",
    "make",
    "make_stateful",
    "names",
    "presets",
]
