r"""What training shows about every example: dynamics that reveal wrong labels.

Each time an example is in a batch, the step already has its logits. From them this
module keeps running sums, one row per example, for the early and the late part of the
run:

- the probability of the given label, its margin over the best other class, and whether
  it is the predicted one (Swayamdipta et al., 2020, arXiv:2009.10795; Pleiss et al.,
  2020, arXiv:2001.10528);
- forgetting events, changes from right to wrong (Toneva et al., 2019,
  arXiv:1812.05159);
- all log-probabilities, whose mean is what :func:`dal_jax.analysis.label_issues` reads,
  or the leading classes where the number of classes is large;
- the given label's probability through the run, for a picture.

The late part begins when the schedule's ``q`` passes 1 and the loss relies less on the
labels, or else halfway through. These are pure functions of arrays and never receive
clean labels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Log-probabilities of 2 x N x K numbers up to this many are kept in full (1 GiB).
_MOST_NUMBERS = 2**28
# Otherwise so many classes an example are followed.
_SLOTS = 4
_MOST_COLUMNS = 64
_SEEN, _PROBABILITY, _MARGIN, _CORRECT = range(4)


class Phases(NamedTuple):
    """When the late part begins, and how steps become columns of the history.

    Attributes:
      late_start: the first step of the late part.
      steps_per_column: how many steps share a column.
      columns: their number.
    """

    late_start: int
    steps_per_column: int
    columns: int


class Dynamics(NamedTuple):
    """What was seen of every example so far; rows are places in the training set.

    Attributes:
      sums: float32 ``[2, N, 4]``, early and late: times seen, and the sums of the
        given label's probability, of its margin, and of its being predicted.
      log_probabilities: float32 ``[2, N, K]``, early and late sums; ``None`` where
        they don't fit.
      leading_classes: int32 ``[N, S]``, the classes predicted most, where the
        log-probabilities don't fit; ``None`` otherwise.
      leading_weights: float32 ``[N, S]``, their summed probabilities; or ``None``.
      forgetting: int32 ``[N]``, how often a right prediction became a wrong one.
      correct: bool ``[N]``, whether the last prediction was right.
      history: uint8 ``[N, columns]``, the given label's probability in 255ths, at
        least 1; 0 where the example was not seen.
    """

    sums: jax.Array
    log_probabilities: jax.Array | None
    leading_classes: jax.Array | None
    leading_weights: jax.Array | None
    forgetting: jax.Array
    correct: jax.Array
    history: jax.Array


def make_phases(
    total_steps: int,
    num_epochs: int,
    coefficients: Callable[[Any], dict[str, Any]] | None = None,
) -> Phases:
    """Returns when a run's late part begins, and its columns.

    Args:
      total_steps: of the run.
      num_epochs: each has a column of the history, or up to 64 columns share them.
      coefficients: step to the loss's coefficients by name. Where ``q`` passes 1, that
        is when the late part begins; otherwise it is half time.

    Example:
      >>> make_phases(100, 10, lambda step: {"q": 0.6 + 0.009 * step})
      Phases(late_start=45, steps_per_column=10, columns=10)
      >>> make_phases(100, 10)
      Phases(late_start=50, steps_per_column=10, columns=10)
    """
    steps = np.arange(max(total_steps, 1))
    named = coefficients(steps) if coefficients else {}
    passed = np.broadcast_to(np.asarray(named.get("q", 0.0)), steps.shape) >= 1
    # A q that is 1 from the first step passes nothing.
    passes = passed.any() and not passed[0]
    late_start = int(np.argmax(passed)) if passes else len(steps) // 2
    steps_per_epoch = -(-len(steps) // max(num_epochs, 1))
    steps_per_column = epochs_per_column(num_epochs) * steps_per_epoch
    return Phases(late_start, steps_per_column, -(-len(steps) // steps_per_column))


def epochs_per_column(num_epochs: int) -> int:
    """Returns how many epochs of a run share a column of the history."""
    return -(-max(num_epochs, 1) // _MOST_COLUMNS)


def init(
    num_examples: int,
    num_classes: int,
    phases: Phases,
    *,
    most_numbers: int = _MOST_NUMBERS,
) -> Dynamics:
    """Returns the dynamics before the first step.

    Args:
      num_examples: ``N``, of the training set.
      num_classes: ``K``.
      phases: from :func:`make_phases`.
      most_numbers: log-probabilities are kept where ``2 N K`` is no more than this.

    Example:
      >>> init(5, 3, make_phases(100, 10)).history.shape
      (5, 10)
    """
    fits = 2 * num_examples * num_classes <= most_numbers
    shape = (num_examples, min(_SLOTS, num_classes))
    # None and not arrays without elements, which Orbax does not save.
    return Dynamics(
        sums=jnp.zeros((2, num_examples, 4), jnp.float32),
        log_probabilities=(
            jnp.zeros((2, num_examples, num_classes), jnp.float32) if fits else None
        ),
        leading_classes=None if fits else jnp.full(shape, -1, jnp.int32),
        leading_weights=None if fits else jnp.zeros(shape, jnp.float32),
        forgetting=jnp.zeros(num_examples, jnp.int32),
        correct=jnp.zeros(num_examples, bool),
        history=jnp.zeros((num_examples, phases.columns), jnp.uint8),
    )


def observe(
    dynamics: Dynamics,
    logits: jax.Array,
    labels: jax.Array,
    index: jax.Array,
    step: jax.Array | int,
    phases: Phases,
    *,
    where: jax.typing.ArrayLike = True,
    gather: Callable[[Any], Any] = lambda batch: batch,
) -> Dynamics:
    """Returns the dynamics with one batch added.

    Args:
      dynamics: those before; donated in a loop, it is changed in place.
      logits: floating ``[batch, K]``, as the step computed them.
      labels: the given ones, integers ``[batch]``.
      index: places in the training set, integers ``[batch]``; one that comes twice in
        a batch is counted twice, and forgotten once.
      step: the number of the step, from 0.
      phases: from :func:`make_phases`.
      where: false for a step, or ``[batch]`` for the examples, to leave out. Logits
        that are not finite are left out anyway.
      gather: gives every device the whole batch of what it is given: a few numbers an
        example, and the log-probabilities of all classes where these are kept.

    Example:
      >>> phases = make_phases(total_steps=4, num_epochs=2)
      >>> seen = init(3, 2, phases)
      >>> seen = observe(
      ...     seen, jnp.array([[2.0, 0.0]]), jnp.array([1]), jnp.array([2]), 0, phases
      ... )
      >>> print(summary(seen)["mean_margin"])
      [nan nan -2.]
    """
    chex.assert_rank([logits, labels, index], [2, 1, 1])
    where = jnp.broadcast_to(jnp.asarray(where), labels.shape)
    logits = lax.stop_gradient(logits).astype(jnp.float32)
    where &= jnp.all(jnp.isfinite(logits), axis=-1)
    logits = jnp.where(where[:, None], logits, 0)
    log_p = jax.nn.log_softmax(logits)
    is_given = jnp.arange(logits.shape[1]) == labels[:, None]
    log_given = jnp.sum(jnp.where(is_given, log_p, 0), axis=-1)
    given = jnp.exp(log_given)
    margin = log_given - jnp.max(jnp.where(is_given, -jnp.inf, log_p), axis=-1)
    numbers = jnp.stack([jnp.ones_like(given), given, margin, margin > 0], axis=-1)
    if dynamics.log_probabilities is None:
        predicted = jnp.argmax(log_p, axis=-1).astype(jnp.int32)
        of_classes: Any = (predicted, jnp.exp(jnp.max(log_p, axis=-1)))
    else:
        of_classes = log_p
    numbers, of_classes, index, where = gather((numbers, of_classes, index, where))
    given, correct = numbers[:, _PROBABILITY], numbers[:, _CORRECT] > 0
    late = jnp.asarray(step >= phases.late_start, jnp.int32)
    column = jnp.minimum(step // phases.steps_per_column, phases.columns - 1)
    # A row outside is dropped by every scatter below.
    row = jnp.where(where, index, dynamics.correct.shape[0])
    forgotten = dynamics.correct[index] & ~correct
    if dynamics.log_probabilities is None:
        predicted, probability = of_classes
        dynamics = _follow_leading(dynamics, predicted, probability, index, row)
    else:
        sums = dynamics.log_probabilities.at[late, row].add(of_classes, mode="drop")
        dynamics = dynamics._replace(log_probabilities=sums)
    # 0 is left for columns in which an example is not seen.
    level = jnp.clip(jnp.round(255 * given), 1, 255).astype(jnp.uint8)
    return dynamics._replace(
        sums=dynamics.sums.at[late, row].add(numbers, mode="drop"),
        # Set and not added: an example that comes twice was forgotten once.
        forgetting=dynamics.forgetting.at[row].set(
            dynamics.forgetting[index] + forgotten.astype(jnp.int32), mode="drop"
        ),
        correct=dynamics.correct.at[row].set(correct, mode="drop"),
        history=dynamics.history.at[row, column].set(level, mode="drop"),
    )


def _follow_leading(
    dynamics: Dynamics,
    predicted: jax.Array,
    probability: jax.Array,
    index: jax.Array,
    row: jax.Array,
) -> Dynamics:
    # Space-saving counters (Metwally et al., 2005): a class that has no slot takes over
    # the lightest one, its weight included, so no leading class is lost.
    assert dynamics.leading_classes is not None
    assert dynamics.leading_weights is not None
    classes, weights = dynamics.leading_classes[index], dynamics.leading_weights[index]
    same = classes == predicted[:, None]
    slot = jnp.where(
        jnp.any(same, -1), jnp.argmax(same, -1), jnp.argmin(weights, axis=-1)
    )
    return dynamics._replace(
        leading_classes=dynamics.leading_classes.at[row, slot].set(
            predicted, mode="drop"
        ),
        leading_weights=dynamics.leading_weights.at[row, slot].add(
            probability, mode="drop"
        ),
    )


def summary(dynamics: Dynamics) -> dict[str, np.ndarray]:
    """Returns what was seen, as host arrays in the order of the training set.

    Means over nothing are nan, and a class that nothing was seen of is -1.

    Returns:
      By name: ``num_seen``, ``num_correct``, ``forgetting_events`` int32 ``[N]``;
      ``mean_given_probability``, ``mean_margin``, ``late_mean_given_probability``,
      ``late_mean_margin`` float32 ``[N]``; ``late_predicted_class`` int32 ``[N]``;
      ``history`` uint8 ``[N, columns]``, the given label's probability in 255ths (in
      a column without the example, that of the column before); and
      ``mean_log_probability``, ``early_mean_log_probability`` float32 ``[N, K]``, or
      where those don't fit ``leading_classes`` int32 and ``leading_weights`` float32
      ``[N, S]``, heaviest first.
    """
    host = jax.tree.map(np.asarray, dynamics)
    early, late = host.sums
    both = early + late
    means = {
        "num_seen": both[:, _SEEN].astype(np.int32),
        "num_correct": both[:, _CORRECT].astype(np.int32),
        "forgetting_events": host.forgetting,
        "mean_given_probability": _mean(both[:, _PROBABILITY], both),
        "mean_margin": _mean(both[:, _MARGIN], both),
        "late_mean_given_probability": _mean(late[:, _PROBABILITY], late),
        "late_mean_margin": _mean(late[:, _MARGIN], late),
        "history": _filled(host.history),
    }
    if host.log_probabilities is None:
        order = np.argsort(-host.leading_weights, axis=1, kind="stable")
        leading = np.take_along_axis(host.leading_classes, order, axis=1)
        return means | {
            "late_predicted_class": leading[:, 0],
            "leading_classes": leading,
            "leading_weights": np.take_along_axis(host.leading_weights, order, axis=1),
        }
    early_log_p, late_log_p = host.log_probabilities
    predicted = np.argmax(late_log_p, axis=1).astype(np.int32)
    return means | {
        "late_predicted_class": np.where(late[:, _SEEN] > 0, predicted, -1),
        "mean_log_probability": _mean(early_log_p + late_log_p, both),
        "early_mean_log_probability": _mean(early_log_p, early),
    }


def _filled(history: np.ndarray) -> np.ndarray:
    """Fills columns in which an example was not seen, but for those still to come."""
    history = history.copy()
    last = int(np.max(np.flatnonzero(history.any(axis=0)), initial=0))
    for columns in (range(1, last + 1), range(last - 1, -1, -1)):
        for column in columns:
            other = history[:, column + (1 if columns.step < 0 else -1)]
            unseen = history[:, column] == 0
            history[unseen, column] = other[unseen]
    return history


def _mean(total: np.ndarray, sums: np.ndarray) -> np.ndarray:
    seen = sums[:, _SEEN].reshape(-1, *(1,) * (total.ndim - 1))
    empty = np.full_like(total, np.nan)
    return np.divide(total, seen, out=empty, where=seen > 0)
