"""What changes while a model trains, as one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

PyTree = Any


class TrainState(struct.PyTreeNode):
    """Everything that a training step reads and replaces.

    Attributes:
      step: int32 ``[]``, the number of steps taken.
      params: what the optimizer trains, float32.
      model_state: what else the model keeps (batch norm statistics).
      opt_state: the optimizer's.
      loss_memory: what the loss remembers of each training example; ``()`` for most
        losses.
      dynamics: what was seen of each training example, see
        :mod:`dal_jax.training.dynamics`; ``()`` where nothing is gathered.
      average: the average of ``params`` and ``model_state`` over time that evaluation
        and prediction use; ``()`` where there is none.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    loss_memory: PyTree
    dynamics: PyTree
    average: PyTree

    @property
    def predictor(self) -> tuple[PyTree, PyTree]:
        """The ``(params, model_state)`` that evaluation and prediction use."""
        return self.average or (self.params, self.model_state)


class TrainMetrics(struct.PyTreeNode):
    """Sums over the training examples seen since an epoch began.

    Sums and counts add up exactly over batches, devices and hosts.

    Attributes:
      loss_sum: float32 ``[]``, the sum of the examples' losses.
      count: float32 ``[]``, the number of examples.
      nonfinite_steps: int32 ``[]``, steps whose loss or gradient was not finite.
      first_nonfinite_step: int32 ``[]``, the first of them, or the largest integer.
      logits_min: float32 ``[]``, the smallest finite logit seen.
      logits_max: float32 ``[]``, the largest one.
    """

    loss_sum: jax.Array
    count: jax.Array
    nonfinite_steps: jax.Array
    first_nonfinite_step: jax.Array
    logits_min: jax.Array
    logits_max: jax.Array

    @classmethod
    def zero(cls) -> "TrainMetrics":
        """Returns the metrics of no examples."""
        return cls(
            loss_sum=jnp.zeros((), jnp.float32),
            count=jnp.zeros((), jnp.float32),
            nonfinite_steps=jnp.zeros((), jnp.int32),
            first_nonfinite_step=jnp.full((), jnp.iinfo(jnp.int32).max, jnp.int32),
            logits_min=jnp.full((), jnp.inf, jnp.float32),
            logits_max=jnp.full((), -jnp.inf, jnp.float32),
        )

    def merge(self, other: "TrainMetrics") -> "TrainMetrics":
        """Returns the metrics of the examples of both."""
        return TrainMetrics(
            loss_sum=self.loss_sum + other.loss_sum,
            count=self.count + other.count,
            nonfinite_steps=self.nonfinite_steps + other.nonfinite_steps,
            first_nonfinite_step=jnp.minimum(
                self.first_nonfinite_step, other.first_nonfinite_step
            ),
            logits_min=jnp.minimum(self.logits_min, other.logits_min),
            logits_max=jnp.maximum(self.logits_max, other.logits_max),
        )


class EvalSums(struct.PyTreeNode):
    """Sums over evaluated examples; ratios of them are the reported figures.

    Attributes:
      count: float32 ``[]``, the number of examples.
      correct: those predicted as their given label.
      mislabelled: those whose given label differs from the clean one.
      memorized: mislabelled ones predicted as the given, wrong label.
      corrected: mislabelled ones predicted as the clean label.
    """

    count: jax.Array
    correct: jax.Array
    mislabelled: jax.Array
    memorized: jax.Array
    corrected: jax.Array

    @classmethod
    def zero(cls) -> "EvalSums":
        """Returns the sums over no examples."""
        return cls(*(jnp.zeros((), jnp.float32) for _ in range(5)))


class Predictions(struct.PyTreeNode):
    """What an evaluation predicted of each example of a split, for the report.

    Attributes:
      predicted: int32 ``[N]``, the class; -1 for an example that was not evaluated.
      probability: float32 ``[N]``, of that class.
    """

    predicted: jax.Array
    probability: jax.Array

    @classmethod
    def none(cls, num_examples: int) -> "Predictions":
        """Returns those before any example was evaluated."""
        return cls(
            jnp.full(num_examples, -1, jnp.int32),
            jnp.zeros(num_examples, jnp.float32),
        )

    @classmethod
    def of(cls, logits: jax.Array) -> "Predictions":
        """Returns those of a batch, from its logits ``[batch, K]``."""
        logits = logits.astype(jnp.float32)
        best = jnp.max(logits, axis=-1, keepdims=True)
        return cls(
            jnp.argmax(logits, axis=-1).astype(jnp.int32),
            1 / jnp.sum(jnp.exp(logits - best), axis=-1),
        )

    def with_batch(
        self, batch: "Predictions", position: jax.Array, mask: jax.Array
    ) -> "Predictions":
        """Returns these with those of a batch at its places, where the mask is true."""
        row = jnp.where(mask, position, len(self.predicted))  # outside: dropped
        return jax.tree.map(
            lambda all_, some: all_.at[row].set(some, mode="drop"), self, batch
        )
