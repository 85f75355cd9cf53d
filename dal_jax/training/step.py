"""The pure functions of training: one step, and the evaluation of one batch.

Neither knows about devices. ``axis_name`` names the axis of a data-parallel map; under
``jax.jit`` over sharded arrays it is ``None``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dal_jax.data.augment import Preprocess
from dal_jax.losses import StatefulLoss
from dal_jax.models import Functional
from dal_jax.training import dynamics
from dal_jax.training.dynamics import Phases
from dal_jax.training.mixup import Mixup
from dal_jax.training.state import EvalSums, TrainMetrics, TrainState

Batch = dict[str, jax.Array]
PyTree = Any

# What a step's key for mixup derives from; an example's derives from its position.
_MIXUP = 2**32 - 1


def make_init(
    model: Functional,
    optimizer: optax.GradientTransformation,
    loss: StatefulLoss,
    *,
    gathered: PyTree = (),
    averaged: bool = False,
) -> Callable[[jax.Array], TrainState]:
    """Returns ``init(key) -> TrainState``, the state before the first step.

    Args:
      model: the network as pure functions.
      optimizer: an optax gradient transformation.
      loss: per example, with its memory.
      gathered: what is recorded of each example, before the first step.
      averaged: whether the parameters are averaged over time.
    """

    def init(key: jax.Array) -> TrainState:
        params, model_state = model.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            loss_memory=loss.init(),
            dynamics=jax.tree.map(jnp.copy, gathered),
            average=jax.tree.map(jnp.copy, (params, model_state)) if averaged else (),
        )

    return init


def make_train_step(
    model: Functional,
    preprocess: Preprocess,
    optimizer: optax.GradientTransformation,
    loss: StatefulLoss,
    augmentation_key: jax.Array,
    *,
    phases: Phases | None = None,
    mixup: Mixup | None = None,
    ema_decay: float | None = None,
    skip_nonfinite: bool = False,
    axis_name: str | None = None,
    gather: Callable[[PyTree], PyTree] = lambda batch: batch,
) -> Callable[[TrainState, Batch], tuple[TrainState, TrainMetrics]]:
    """Returns the training step.

    Args:
      model: the network as pure functions.
      preprocess: raw inputs to the network's; ``train`` takes one key an example,
        made from ``augmentation_key``, the step and the example's position, so that
        no example's augmentation depends on the others or on the devices.
      optimizer: an optax gradient transformation; one that takes extra arguments is
        given the ``step``.
      loss: per example, with its memory.
      augmentation_key: the key that all augmentation derives from.
      phases: when the run is early and late, for what is recorded of each example;
        ``None`` records nothing.
      mixup: mixes the examples of a step. What is gathered of them then comes from
        the examples as they are, which the network sees once more, in evaluation mode.
      ema_decay: of the parameters' average over time, see :func:`update_average`.
      skip_nonfinite: keep the state, except for ``step``, where the loss or the
        gradient is not finite.
      axis_name: the mapped axis whose shards make up the batch, or ``None``.
      gather: gives every device the whole batch of what it is given, so that what is
        recorded of the examples is the same on every device.

    Returns:
      ``train_step(state, batch) -> (state, metrics)`` with ``batch`` of ``inputs``
      ``[batch, ...]``, ``labels`` ``[batch, ...]`` and ``position`` int32 ``[batch]``
      in the training set. Where it has ``label_distributions`` ``[batch, classes]``,
      the loss is given these.
    """

    def mean_loss(params, state: TrainState, inputs, labels, position):
        logits, model_state = model.apply(params, state.model_state, inputs, True)
        values, memory = loss.apply(
            logits, labels, state.step, state.loss_memory, position
        )
        return jnp.mean(values), (values, logits, model_state, memory)

    update = optax.with_extra_args_support(optimizer).update

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, TrainMetrics]:
        step_key = jax.random.fold_in(augmentation_key, state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch["position"])
        inputs = preprocess.train(keys, batch["inputs"])
        examples = inputs, batch.get("label_distributions", batch["labels"])
        if mixup is not None:
            examples = mixup(jax.random.fold_in(step_key, _MIXUP), *examples)
        (mean, (values, logits, model_state, memory)), gradient = jax.value_and_grad(
            mean_loss, has_aux=True
        )(state.params, state, *examples, batch["position"])
        if axis_name is not None:
            mean, gradient = lax.pmean((mean, gradient), axis_name)
            memory = _merge_memory(state.loss_memory, memory, axis_name)
        updates, opt_state = update(
            gradient, state.opt_state, state.params, step=state.step
        )
        finite = jnp.isfinite(mean) & jnp.isfinite(optax.tree.norm(gradient))
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            loss_memory=memory,
            dynamics=(),
            average=(),
        )
        if ema_decay is not None:
            new_state = update_average(state, new_state, ema_decay)
        if skip_nonfinite:
            # The dynamics are large, and leave such a step out themselves.
            unchanged = state.replace(step=state.step + 1, dynamics=())
            new_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old), new_state, unchanged
            )
        if phases is not None:
            seen = logits
            if mixup is not None:
                seen, _ = model.apply(state.params, state.model_state, inputs, False)
            gathered = dynamics.observe(
                state.dynamics,
                seen,
                batch["labels"],
                batch["position"],
                state.step,
                phases,
                where=finite,
                gather=gather,
            )
            new_state = new_state.replace(dynamics=gathered)
        metrics = _train_metrics(state.step, values, logits, finite)
        if axis_name is not None:
            metrics = _reduce_metrics(metrics, axis_name)
        return new_state, metrics

    return train_step


def update_average(
    state: TrainState, new_state: TrainState, decay: float
) -> TrainState:
    r"""Returns ``new_state`` with the average that its parameters are part of.

    .. math:: \bar\theta_{t+1} = d_t \bar\theta_t + (1 - d_t)\,\theta_{t+1},
       \qquad d_t = \min\left(d, \frac{1 + t}{10 + t}\right)

    The bound keeps the initial values from lingering in a short run. Integers in
    ``model_state`` (counters, random keys) are copied.
    """
    step = state.step.astype(jnp.float32)
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))

    def leaf(average: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return (average + (1 - decay_now) * (new - average)).astype(new.dtype)

    new = (new_state.params, new_state.model_state)
    return new_state.replace(average=jax.tree.map(leaf, state.average, new))


def make_eval_step(
    model: Functional, preprocess: Preprocess, *, axis_name: str | None = None
) -> Callable[[PyTree, PyTree, Batch], tuple[EvalSums, jax.Array]]:
    """Returns the evaluation of one batch.

    Args:
      model: the network as pure functions.
      preprocess: its ``evaluate`` turns raw inputs into the network's.
      axis_name: the mapped axis whose shards make up the batch, or ``None``.

    Returns:
      ``eval_step(params, model_state, batch) -> (sums, logits)`` with ``batch`` of
      ``inputs``, ``labels`` (as given), ``clean_labels`` (the same where unknown) and
      ``mask`` bool ``[batch]``, false for padding. Labels below 0 are not counted. The
      logits are those of this device's examples, the sums those of all.
    """

    def eval_step(
        params: PyTree, model_state: PyTree, batch: Batch
    ) -> tuple[EvalSums, jax.Array]:
        inputs = preprocess.evaluate(batch["inputs"])
        logits, _ = model.apply(params, model_state, inputs, False)
        predicted = jnp.argmax(logits, axis=-1)
        given, clean = _classes(batch["labels"]), _classes(batch["clean_labels"])
        mask = jnp.expand_dims(batch["mask"], tuple(range(1, given.ndim)))
        mask = mask & (given >= 0)
        wrong = given != clean
        sums = EvalSums(
            *(
                jnp.sum(mask & selected, dtype=jnp.float32)
                for selected in (
                    jnp.ones_like(wrong),
                    predicted == given,
                    wrong,
                    wrong & (predicted == given),
                    wrong & (predicted == clean),
                )
            )
        )
        return sums if axis_name is None else lax.psum(sums, axis_name), logits

    return eval_step


def _classes(labels: jax.Array) -> jax.Array:
    """Labels as class numbers; of a distribution, its most probable class."""
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return jnp.argmax(labels, axis=-1)
    return labels


def _train_metrics(
    step: jax.Array, values: jax.Array, logits: jax.Array, finite: jax.Array
) -> TrainMetrics:
    logits = logits.astype(jnp.float32)
    known = jnp.isfinite(logits)
    return TrainMetrics(
        # A skipped step counts no loss, so that the epoch's mean stays a number.
        loss_sum=jnp.where(finite, jnp.sum(values, dtype=jnp.float32), 0.0),
        count=jnp.where(finite, jnp.float32(values.size), 0.0),
        nonfinite_steps=jnp.where(finite, 0, 1).astype(jnp.int32),
        first_nonfinite_step=jnp.where(finite, jnp.iinfo(jnp.int32).max, step),
        logits_min=jnp.min(logits, initial=jnp.inf, where=known),
        logits_max=jnp.max(logits, initial=-jnp.inf, where=known),
    )


def _reduce_metrics(metrics: TrainMetrics, axis_name: str) -> TrainMetrics:
    # `finite` is the same on every shard, and so is what follows from it alone.
    return metrics.replace(
        loss_sum=lax.psum(metrics.loss_sum, axis_name),
        count=lax.psum(metrics.count, axis_name),
        logits_min=lax.pmin(metrics.logits_min, axis_name),
        logits_max=lax.pmax(metrics.logits_max, axis_name),
    )


def _merge_memory(old: PyTree, new: PyTree, axis_name: str) -> PyTree:
    # Each shard has replaced the rows of its own examples in a copy of the whole.
    return jax.tree.map(lambda a, b: a + lax.psum(b - a, axis_name), old, new)
