"""Evaluates a state on a split, in calls between which a signal can stop it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.data import Split
from dal_jax.training.feed import Pace, Resident, make_runner, sequential_order
from dal_jax.training.parallel import Pmap, ShardedJit
from dal_jax.training.state import EvalSums, Predictions, TrainState
from dal_jax.training.step import Batch


class Evaluated(NamedTuple):
    """What an evaluation found.

    Attributes:
      sums: over all examples.
      predictions: of each, where they are kept; otherwise ``None``.
    """

    sums: EvalSums
    predictions: Predictions | None


# (state, before_call) -> what was found; before_call is called before each call of the
# device, and ends the evaluation by raising.
Evaluation = Callable[[TrainState, Callable[[], None]], Evaluated]


def make_evaluation(
    parallel: ShardedJit | Pmap,
    eval_step: Callable[..., tuple[EvalSums, jax.Array]],
    split: Split,
    inputs: Resident | Split,
    batch_size: int,
    *,
    positions: np.ndarray | None = None,
    keeps_predictions: bool = False,
    workers: int | None = None,
) -> Evaluation:
    """Returns the evaluation of a split.

    Args:
      parallel: the devices.
      eval_step: ``(params, model_state, batch) -> (EvalSums, logits)``.
      split: with its given labels, and the clean ones where they are known.
      inputs: its inputs, as :func:`~dal_jax.training.feed.place_inputs` returns them.
      batch_size: the global one; rounded up to what the devices can share.
      positions: of the examples to evaluate; ``None`` for all.
      keeps_predictions: whether to return what each example is predicted as; only
        where an example has one label.
      workers: threads that decode a stream; ``None`` for one a core.
    """
    clean = split.labels if split.clean_labels is None else split.clean_labels
    labels = {"labels": split.labels, "clean_labels": clean}

    def accumulate(context: Any, found: Evaluated, batch: Batch) -> Evaluated:
        of_batch, logits = eval_step(*context, batch)
        sums, predictions = jax.tree.map(jnp.add, found.sums, of_batch), None
        if found.predictions is not None:
            seen = Predictions.of(logits), batch["position"], batch["mask"]
            predictions = found.predictions.with_batch(*parallel.gather(seen))
        return Evaluated(sums, predictions)

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
    none = Predictions.none(len(split)) if keeps_predictions else None
    nothing = parallel.place_data(Evaluated(EvalSums.zero(), none))

    def evaluate(state: TrainState, before_call: Callable[[], None]) -> Evaluated:
        context, found = state.predictor, nothing
        for first, last in pace.calls(0, len(order)):
            before_call()
            found = run(context, found, order, first, last)
            jax.block_until_ready(found)
        return parallel.fetch(found)

    return evaluate
