"""Factories for losses that are more than a function of logits and labels.

They depend on the step, draw random numbers, remember examples, or have coefficients
that a report shows. A factory takes all hyper-parameters of the loss by keyword, and
what it needs to know about the run. It declares the hyper-parameters that the loss
function itself does not have.
"""

import functools
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from dal_jax.errors import InputError
from dal_jax.hyperparameters import Positive
from dal_jax.losses import correction, dal, memory, negative, sparse
from dal_jax.schedules import CIFAR_EPOCH, CIFAR_STEPS, dal_schedule

Loss = Callable[[jax.Array, jax.Array, ArrayLike], jax.Array]
Coefficients = Callable[[ArrayLike], dict[str, jax.Array]]


def _no_coefficients(step: ArrayLike) -> dict[str, jax.Array]:
    del step
    return {}


class StatefulLoss(NamedTuple):
    """A loss that may remember something about every example, as pure functions.

    Attributes:
      init: ``init() -> memory``, a pytree; ``()`` for a loss without memory.
      apply: ``apply(logits, labels, step, memory, index) -> (loss, memory)``, pure;
        ``index`` ``[...]`` holds the examples' positions in the training set.
      coefficients: ``coefficients(step) -> dict`` of the coefficients to report, by
        name; ``{}`` for most losses.
    """

    init: Callable[[], Any]
    apply: Callable[..., tuple[jax.Array, Any]]
    coefficients: Coefficients = _no_coefficients


class PureLoss(NamedTuple):
    """A loss without memory, and the coefficients that it reports.

    If ``draws`` is true, the loss draws random numbers, and ``apply`` also takes
    ``index``, the examples' positions in the training set. So the numbers drawn for an
    example depend neither on its batch nor on its device.
    """

    apply: Callable[..., jax.Array]
    coefficients: Coefficients = _no_coefficients
    draws: bool = False


def at_step(value: Any, step: ArrayLike) -> Any:
    """Returns a hyper-parameter's value at a step; it may be a schedule."""
    return value(step) if callable(value) else value


def make_plain(function: Callable[..., jax.Array], **hyperparameters: Any) -> PureLoss:
    """Returns a function of logits and labels, with schedules evaluated at the step."""

    def apply(logits, labels, step):
        now = {key: at_step(value, step) for key, value in hyperparameters.items()}
        return function(logits, labels, **now)

    return PureLoss(apply)


def make_dal(
    *,
    q_start: ArrayLike,
    q_end: ArrayLike,
    bootstrap: dal.Bootstrap,
    per_epoch: bool = True,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
) -> PureLoss:
    """Returns Dynamics-Aware Loss on the schedule of a run."""
    if total_steps is None:
        total_steps, steps_per_epoch = CIFAR_STEPS, steps_per_epoch or CIFAR_EPOCH
    schedule = dal_schedule(
        total_steps,
        q_start=q_start,
        q_end=q_end,
        steps_per_epoch=steps_per_epoch if per_epoch else None,
    )
    apply = functools.partial(dal.dal_loss, schedule=schedule, bootstrap=bootstrap)
    return PureLoss(apply, lambda step: schedule(step)._asdict())


def make_gce(*, q: Any) -> PureLoss:
    """Returns the generalized cross entropy, which reports its ``q`` like DAL."""

    def coefficients(step):
        return {"q": jnp.asarray(at_step(q, step)), "bootstrap_weight": jnp.zeros(())}

    return make_plain(dal.gce, q=q)._replace(coefficients=coefficients)


def make_ce_sr(
    *,
    regularization_weight: Any,
    regularization_growth: Positive = 1.0,
    per_epoch: bool = True,
    steps_per_epoch: int | None = None,
    **others: Any,
) -> PureLoss:
    """Returns cross entropy with sparse regularisation, whose weight grows."""
    if regularization_growth != 1 and steps_per_epoch is None:
        raise InputError(
            "loss 'ce_sr' grows its weight each epoch: expected steps_per_epoch with "
            "regularization_growth; pass steps_per_epoch"
        )

    def weight(step):
        base = at_step(regularization_weight, step)
        if steps_per_epoch is None:
            return jnp.asarray(base)
        epochs = step // steps_per_epoch if per_epoch else step / steps_per_epoch
        return base * jnp.asarray(regularization_growth) ** epochs

    loss = make_plain(sparse.ce_sr, regularization_weight=weight, **others)
    return loss._replace(
        coefficients=lambda step: {"regularization_weight": weight(step)}
    )


def make_nlnl(*, seed: int = 0, **others: Any) -> PureLoss:
    """Returns negative learning; seed, step and example decide which labels are drawn.

    An example is known by its ``index``, or else by its position in the batch.
    """

    def apply(logits, labels, step, index=None):
        key = jax.random.fold_in(jax.random.key(seed), step)
        words = jax.random.key_data(key)
        if index is None:
            index = jnp.arange(labels.size).reshape(labels.shape)

        def of_example(logits, label, index):
            # Different keys draw unrelated numbers even if they differ in one bit, so
            # half of the hashing can be saved.
            own_key = jax.random.wrap_key_data(words ^ index.astype(jnp.uint32))
            return negative.nlnl(logits, label, own_key, **others)

        for _ in labels.shape:
            of_example = jax.vmap(of_example)
        return of_example(logits, labels, index)

    return PureLoss(apply, draws=True)


def make_elr(
    *,
    beta: Any,
    regularization_weight: Any,
    num_examples: int,
    num_classes: int | None = None,
) -> StatefulLoss:
    """Returns early-learning regularisation, with the targets of all examples."""
    if num_classes is None:
        raise InputError(
            "loss 'elr' keeps a target for every class: expected num_classes; pass it"
        )

    def init():
        return jnp.zeros((num_examples, num_classes))

    def apply(logits, labels, step, targets, index):
        rows = memory.elr_targets(logits, targets[index], beta=at_step(beta, step))
        weight = at_step(regularization_weight, step)
        loss = memory.elr(logits, labels, rows, regularization_weight=weight)
        return loss, targets.at[index].set(rows)

    return StatefulLoss(init, apply)


def make_clamped(
    function: Callable[..., jax.Array],
    *,
    min_probability: Any,
    num_classes: int | None = None,
    **others: Any,
) -> PureLoss:
    """Returns a loss that divides by how far the classes are above the smallest.

    If all of them may be below it, that is 0 / 0.
    """
    # A schedule and a traced number are not known here.
    least = float(min_probability) if isinstance(min_probability, Real) else 0.0
    if least * (num_classes or 1) >= 1:
        raise InputError(
            f"loss {function.__name__!r} has min_probability={min_probability}: "
            f"expected less than 1 / {num_classes}, for so many classes; choose less"
        )
    return make_plain(function, min_probability=min_probability, **others)


def make_correction(
    function: Callable[..., jax.Array], *, noise_rate: Any, transition_matrix: Any
) -> PureLoss:
    """Returns the forward- or backward-corrected cross entropy."""
    correction.require_one(noise_rate, transition_matrix)
    return make_plain(
        function, noise_rate=noise_rate, transition_matrix=transition_matrix
    )
