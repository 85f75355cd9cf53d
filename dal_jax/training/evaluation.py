"""Evaluates a state on a split, in calls between which a signal can stop it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.data import Split
from dal_jax.training.feed import Pace, Resident, make_runner, sequential_order
from dal_jax.training.parallel import Pmap, ShardedJit
from dal_jax.training.state import EvalSums, TrainState
from dal_jax.training.step import Batch

# (state, before_call) -> sums; before_call is called before each call of the device,
# and ends the evaluation by raising.
Evaluation = Callable[[TrainState, Callable[[], None]], EvalSums]


def make_evaluation(
    parallel: ShardedJit | Pmap,
    eval_step: Callable[..., EvalSums],
    split: Split,
    inputs: Resident | Split,
    batch_size: int,
    *,
    positions: np.ndarray | None = None,
    workers: int | None = None,
) -> Evaluation:
    """Returns the evaluation of a split.

    Args:
      parallel: the devices.
      eval_step: ``(params, model_state, batch) -> EvalSums``.
      split: with its given labels, and the clean ones where they are known.
      inputs: its inputs, as :func:`~dal_jax.training.feed.place_inputs` returns them.
      batch_size: the global one; rounded up to what the devices can share.
      positions: of the examples to evaluate; ``None`` for all.
      workers: threads that decode a stream; ``None`` for one a core.
    """
    clean = split.labels if split.clean_labels is None else split.clean_labels
    labels = {"labels": split.labels, "clean_labels": clean}

    def accumulate(context: Any, sums: EvalSums, batch: Batch) -> EvalSums:
        return jax.tree.map(jnp.add, sums, eval_step(*context, batch))

    # Padding is masked, so the devices may share any number of examples.
    batch_size = -(-batch_size // jax.device_count()) * jax.device_count()
    if positions is None:
        positions = np.arange(len(split))
    order = sequential_order(positions, batch_size)
    run = make_runner(
        parallel,
        inputs,
        labels,
        accumulate,
        rows=len(order),
        workers=workers,
    )
    pace = Pace(run.unit)

    def evaluate(state: TrainState, before_call: Callable[[], None]) -> EvalSums:
        context = state.predictor
        sums = parallel.place_data(EvalSums.zero())
        for first, last in pace.calls(0, len(order)):
            before_call()
            sums = run(context, sums, order, first, last)
            jax.block_until_ready(sums)
        return parallel.fetch(sums)

    return evaluate
