"""A plan's pure functions, bound to devices and data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dal_jax.data import Split
from dal_jax.data.balance import balanced_order
from dal_jax.seeds import jax_key
from dal_jax.training import dynamics, mixup
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
      context: what ``run_train`` takes first: the key of the augmentation. Were it a
        constant of the compiled program, every seed would have to compile its own.
      run_train: runs rows of an order over ``(state, metrics)``.
      evaluations: by name (``train``, ``validation``, ``test``).
    """

    parallel: ShardedJit | Pmap
    steps_per_epoch: int
    init: Callable[[], TrainState]
    order: Callable[[int], np.ndarray]
    context: jax.Array
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
        order=lambda epoch: _order(plan, epoch),
        context=parallel.place_data(
            np.asarray(jax.random.key_data(_augmentation_key(plan)))
        ),
        run_train=make_runner(
            parallel,
            placed["train"],
            _labels(plan.train),
            make_accumulate(plan, parallel),
            rows=plan.steps_per_epoch,
            donate=True,
            workers=options.workers,
        ),
        evaluations=_evaluations(plan, parallel, placed),
    )


def _order(plan: Plan, epoch: int) -> np.ndarray:
    seed, batch = plan.seeds["data_order"], plan.options.batch_size
    if plan.options.balance is None:
        return epoch_order(seed, epoch, len(plan.train), batch)
    return balanced_order(seed, epoch, plan.train.labels, batch)


def _labels(split: Split) -> dict[str, np.ndarray]:
    labels = {"labels": split.labels}
    if split.label_distributions is not None:
        labels["label_distributions"] = split.label_distributions
    return labels


def make_accumulate(
    plan: Plan, parallel: ShardedJit | Pmap
) -> Callable[[Any, Carry, steps.Batch], Carry]:
    """Returns the training step as a loop over batches calls it.

    ``(context, (state, metrics), batch) -> (state, metrics)``, with the batch's metrics
    added. The context is the data of the augmentation's key.
    """
    with_key = _step_with_key(
        plan,
        parallel.axis_name,
        parallel.gather,
        parallel.neighbours,
    )

    def accumulate(context: Any, carry: Carry, batch: steps.Batch) -> Carry:
        train_step = with_key(augmentation_key=jax.random.wrap_key_data(context))
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


def make_train_step(plan: Plan, axis_name: str | None = None) -> Callable[..., Any]:
    """Returns the plan's pure training step."""
    return _step_with_key(plan, axis_name)(augmentation_key=_augmentation_key(plan))


def _step_with_key(
    plan: Plan,
    axis_name: str | None,
    gather: Callable[[Any], Any] = lambda batch: batch,
    neighbours: Callable[[Any], Any] = mixup.before,
) -> Callable[..., Any]:
    """Returns the plan's training step as a function of ``augmentation_key``."""
    alpha, num_classes = plan.options.mixup, len(plan.class_names)
    return functools.partial(
        steps.make_train_step,
        plan.model,
        plan.preprocess,
        plan.optimizer,
        plan.loss,
        phases=plan.phases,
        mixup=mixup.make_mixup(alpha, num_classes, neighbours) if alpha else None,
        ema_decay=plan.options.ema_decay,
        skip_nonfinite=plan.options.on_nonfinite == "skip",
        axis_name=axis_name,
        gather=gather,
    )


def _augmentation_key(plan: Plan) -> jax.Array:
    return jax_key(plan.seeds["augmentation"], "augmentation")


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
            keeps_predictions=name == plan.reported_split,
            workers=plan.options.workers,
        )
        for name, split in plan.splits.items()
        if len(positions[name])
    }
