"""Losses for learning with label noise, pure and unreduced.

Every loss is ``loss(logits, labels, *, hyper=default, axis=-1, where=None)``. Logits
``[..., num_classes]`` are floating and are computed in float32 (float64 stays
float64). Labels are integers ``[...]``, or distributions over the classes
``[..., num_classes]``, under which the loss is averaged. The result is the loss of each
example, ``[...]``, in float32 or float64. Rows where ``where`` ``[...]`` is false are
zero in value and gradient. An argument of the wrong rank, shape or dtype raises an
``AssertionError`` at trace time that names it.

:func:`make` builds every loss except ``elr`` by name; :func:`make_stateful` builds all.
"""

from dal_jax.losses import presets
from dal_jax.losses.active_passive import anl_ce, nce_agce, nce_rce, rce, sce
from dal_jax.losses.asymmetric import ael, agce, aul
from dal_jax.losses.bootstrapping import hard_bootstrapping, soft_bootstrapping
from dal_jax.losses.correction import backward_correction, forward_correction
from dal_jax.losses.dal import ce, dal_loss, dal_objective, gce, mae
from dal_jax.losses.factories import Loss, PureLoss, StatefulLoss
from dal_jax.losses.focusing import focal
from dal_jax.losses.hidden import from_hidden, mean_from_hidden
from dal_jax.losses.interpolating import js, phuber_ce, taylor_ce
from dal_jax.losses.memory import elr, elr_targets
from dal_jax.losses.negative import nlnl
from dal_jax.losses.normalized import nce, nfl, nnce
from dal_jax.losses.registry import (
    accepted,
    hyperparameters,
    make,
    make_stateful,
    names,
)
from dal_jax.losses.sparse import ce_sr
from dal_jax.losses.tempered import bi_tempered

__all__ = [
    "Loss",
    "PureLoss",
    "StatefulLoss",
    "accepted",
    "ael",
    "agce",
    "anl_ce",
    "aul",
    "backward_correction",
    "bi_tempered",
    "ce",
    "ce_sr",
    "dal_loss",
    "dal_objective",
    "elr",
    "elr_targets",
    "focal",
    "forward_correction",
    "from_hidden",
    "gce",
    "hard_bootstrapping",
    "hyperparameters",
    "js",
    "mae",
    "make",
    "make_stateful",
    "mean_from_hidden",
    "names",
    "nce",
    "nce_agce",
    "nce_rce",
    "nfl",
    "nlnl",
    "nnce",
    "phuber_ce",
    "presets",
    "rce",
    "sce",
    "soft_bootstrapping",
    "taylor_ce",
]
