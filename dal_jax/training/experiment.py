"""A plan's pure functions, bound to devices and data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dal_jax.data import Split
from dal_jax.seeds import jax_key
from dal_jax.training import dynamics
from dal_jax.training import step as steps
from dal_jax.training.evaluation import Evaluation, make_evaluation
from dal_jax.training.feed import (
    Resident,
    Runner,
    epoch_order,
    make_runner,
    place_inputs,
)
from dal_jax.training.parallel import Pmap, ShardedJit, make_parallel
from dal_jax.training.plan import Plan
from dal_jax.training.state import TrainMetrics, TrainState

Carry = tuple[TrainState, TrainMetrics]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a loop calls.

    Attributes:
      parallel: the devices.
      steps_per_epoch: steps in one epoch.
      init: ``() -> state``, placed on the devices.
      order: ``epoch -> positions [steps, batch]``.
      run_train: runs rows of an order over ``(state, metrics)``.
      evaluations: by name (``train``, ``validation``, ``test``).
    """

    parallel: ShardedJit | Pmap
    steps_per_epoch: int
    init: Callable[[], TrainState]
    order: Callable[[int], np.ndarray]
    run_train: Runner
    evaluations: dict[str, Evaluation]


def build(plan: Plan) -> Experiment:
    """Returns the experiment; nothing is compiled or initialised yet.

    Raises:
      InputError: a batch that the devices cannot share.
    """
    options = plan.options
    parallel = make_parallel(
        options.parallel, options.batch_size, options.model_devices
    )
    init = make_init(plan)
    init_key = jax_key(plan.seeds["initialization"], "initialization")
    placed = {name: place_inputs(parallel, s) for name, s in plan.splits.items()}
    return Experiment(
        parallel=parallel,
        steps_per_epoch=plan.steps_per_epoch,
        init=lambda: parallel.init_state(init, init_key),
        order=lambda epoch: epoch_order(
            plan.seeds["data_order"], epoch, len(plan.train), options.batch_size
        ),
        run_train=make_runner(
            parallel,
            placed["train"],
            {"labels": plan.train.labels},
            make_accumulate(plan, parallel),
            rows=plan.steps_per_epoch,
            donate=True,
            workers=options.workers,
        ),
        evaluations=_evaluations(plan, parallel, placed),
    )


def make_accumulate(
    plan: Plan, parallel: ShardedJit | Pmap
) -> Callable[[Any, Carry, steps.Batch], Carry]:
    """Returns the training step as a loop over batches calls it.

    ``(context, (state, metrics), batch) -> (state, metrics)``, with the batch's metrics
    added.
    """
    train_step = make_train_step(plan, parallel.axis_name, parallel.gather)

    def accumulate(context: Any, carry: Carry, batch: steps.Batch) -> Carry:
        del context
        state, metrics = carry
        state, of_batch = train_step(state, batch)
        return state, metrics.merge(of_batch)

    return accumulate


def make_init(plan: Plan) -> Callable[[jax.Array], TrainState]:
    """Returns the plan's ``init(key) -> state``."""

    def init(key: jax.Array) -> TrainState:
        gathered = ()
        if plan.phases is not None:
            gathered = dynamics.init(
                len(plan.train), len(plan.class_names), plan.phases
            )
        return steps.make_init(
            plan.model,
            plan.optimizer,
            plan.loss,
            gathered=gathered,
            averaged=plan.options.ema_decay is not None,
        )(key)

    return init


def make_train_step(
    plan: Plan,
    axis_name: str | None = None,
    gather: Callable[[Any], Any] = lambda batch: batch,
) -> Callable[..., Any]:
    """Returns the plan's pure training step."""
    return steps.make_train_step(
        plan.model,
        plan.preprocess,
        plan.optimizer,
        plan.loss,
        jax_key(plan.seeds["augmentation"], "augmentation"),
        phases=plan.phases,
        ema_decay=plan.options.ema_decay,
        skip_nonfinite=plan.options.on_nonfinite == "skip",
        axis_name=axis_name,
        gather=gather,
    )


def _evaluations(
    plan: Plan,
    parallel: ShardedJit | Pmap,
    placed: dict[str, Resident | Split],
) -> dict[str, Evaluation]:
    eval_step = steps.make_eval_step(
        plan.model, plan.preprocess, axis_name=parallel.axis_name
    )
    positions = {name: np.arange(len(split)) for name, split in plan.splits.items()}
    size = plan.options.train_eval_size
    if size is not None:
        count = len(plan.train)
        size = min(size, count)
        positions["train"] = np.arange(size) * count // max(size, 1)
    return {
        name: make_evaluation(
            parallel,
            eval_step,
            split,
            placed[name],
            plan.options.eval_batch_size,
            positions=positions[name],
            workers=plan.options.workers,
        )
        for name, split in plan.splits.items()
        if len(positions[name])
    }
