"""The pure functions that training is made of: one step, one evaluation batch.

Neither knows of devices: ``axis_name`` is the only trace of a data-parallel map, and
under ``jax.jit`` over sharded arrays it is ``None``.
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
from dal_jax.training.state import EvalSums, TrainMetrics, TrainState

Batch = dict[str, jax.Array]
PyTree = Any


def make_init(
    model: Functional,
    optimizer: optax.GradientTransformation,
    loss: StatefulLoss,
) -> Callable[[jax.Array], TrainState]:
    """Returns ``init(key) -> TrainState``, the state before the first step."""

    def init(key: jax.Array) -> TrainState:
        params, model_state = model.init(key)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            loss_memory=loss.init(),
        )

    return init


def make_train_step(
    model: Functional,
    preprocess: Preprocess,
    optimizer: optax.GradientTransformation,
    loss: StatefulLoss,
    augmentation_key: jax.Array,
    *,
    skip_nonfinite: bool = False,
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, TrainMetrics]]:
    """Returns the training step.

    Args:
      model: the network as pure functions.
      preprocess: raw images to the network's input; ``train`` takes one key an
        example, made from ``augmentation_key``, the step and the example's position,
        so that no example's augmentation depends on the others or on the devices.
      optimizer: an optax gradient transformation; one that takes extra arguments is
        given the ``step``.
      loss: per example, with its memory.
      augmentation_key: the key that all augmentation derives from.
      skip_nonfinite: leave the state as it is, but for ``step``, where the loss or
        the gradient is not finite.
      axis_name: the mapped axis whose shards make up the batch, or ``None``.

    Returns:
      ``train_step(state, batch) -> (state, metrics)`` with ``batch`` of ``image``
      uint8 ``[batch, height, width, channels]``, ``label`` int32 ``[batch]`` and
      ``position`` int32 ``[batch]`` in the training set.
    """

    def mean_loss(params: PyTree, state: TrainState, batch: Batch, images: jax.Array):
        logits, model_state = model.apply(params, state.model_state, images, True)
        values, memory = loss.apply(
            logits, batch["label"], state.step, state.loss_memory, batch["position"]
        )
        return jnp.mean(values), (values, logits, model_state, memory)

    update = optax.with_extra_args_support(optimizer).update

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, TrainMetrics]:
        step_key = jax.random.fold_in(augmentation_key, state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, batch["position"])
        images = preprocess.train(keys, batch["image"])
        (mean, (values, logits, model_state, memory)), gradient = jax.value_and_grad(
            mean_loss, has_aux=True
        )(state.params, state, batch, images)
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
        )
        if skip_nonfinite:
            unchanged = state.replace(step=state.step + 1)
            new_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old), new_state, unchanged
            )
        metrics = _train_metrics(state.step, values, logits, finite)
        if axis_name is not None:
            metrics = _reduce_metrics(metrics, axis_name)
        return new_state, metrics

    return train_step


def make_eval_step(
    model: Functional, preprocess: Preprocess, *, axis_name: str | None = None
) -> Callable[[PyTree, PyTree, Batch], EvalSums]:
    """Returns the evaluation of one batch.

    Args:
      model: the network as pure functions.
      preprocess: its ``evaluate`` turns raw images into the network's input.
      axis_name: the mapped axis whose shards make up the batch, or ``None``.

    Returns:
      ``eval_step(params, model_state, batch) -> EvalSums`` with ``batch`` of
      ``image``, ``label`` (as given), ``clean_label`` (the same where unknown) and
      ``mask`` bool ``[batch]``, false for padding.
    """

    def eval_step(params: PyTree, model_state: PyTree, batch: Batch) -> EvalSums:
        images = preprocess.evaluate(batch["image"])
        logits, _ = model.apply(params, model_state, images, False)
        predicted = jnp.argmax(logits, axis=-1)
        given, clean = batch["label"], batch["clean_label"]
        wrong = given != clean
        sums = EvalSums(
            *(
                jnp.sum(batch["mask"] & selected, dtype=jnp.float32)
                for selected in (
                    jnp.ones_like(wrong),
                    predicted == given,
                    wrong,
                    wrong & (predicted == given),
                    wrong & (predicted == clean),
                )
            )
        )
        return sums if axis_name is None else lax.psum(sums, axis_name)

    return eval_step


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
