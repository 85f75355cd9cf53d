"""Logits for any number of inputs, from few compiled programs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax.data import InputSource
from dal_jax.data.augment import Preprocess
from dal_jax.errors import InputError
from dal_jax.models import Functional
from dal_jax.training.compiling import for_every_core

PyTree = Any


def make_predict_logits(
    model: Functional,
    preprocess: Preprocess,
    params: PyTree,
    model_state: PyTree,
    *,
    input_shape: tuple[int, ...],
    batch_size: int,
) -> Callable[[np.ndarray | InputSource], np.ndarray]:
    """Returns ``predict_logits(inputs) -> [N, ..., num_classes]`` on one device.

    Batches are filled up to a power of two or to ``batch_size``, so that any number of
    inputs needs but a handful of programs.

    Args:
      model: the network as pure functions.
      preprocess: its ``evaluate`` is applied first.
      params: of the network.
      model_state: of the network.
      input_shape: of one input.
      batch_size: the largest batch.
    """

    @functools.partial(jax.jit, compiler_options=for_every_core(jax.default_backend()))
    def logits_of(params: PyTree, model_state: PyTree, inputs: jax.Array) -> jax.Array:
        return model.apply(params, model_state, preprocess.evaluate(inputs), False)[0]

    def predict_logits(inputs: np.ndarray | InputSource) -> np.ndarray:
        inputs = inputs if isinstance(inputs, InputSource) else np.asarray(inputs)
        shape = inputs.shape[1:] if isinstance(inputs, np.ndarray) else inputs.shape
        if tuple(shape) != tuple(input_shape) or not len(inputs):
            raise InputError(
                f"inputs have the shape {[len(inputs), *shape]}: expected at least one "
                f"of shape {list(input_shape)}, as in training"
            )
        logits = []
        for first in range(0, len(inputs), batch_size):
            last = min(first + batch_size, len(inputs))
            if isinstance(inputs, np.ndarray):
                batch = np.asarray(inputs[first:last])
            else:
                batch = np.stack([inputs[i] for i in range(first, last)])
            rows = min(1 << (len(batch) - 1).bit_length(), batch_size)
            padding = [(0, rows - len(batch))] + [(0, 0)] * len(input_shape)
            filled = jnp.asarray(np.pad(batch, padding))
            of_batch = logits_of(params, model_state, filled)
            logits.append(np.asarray(of_batch)[: len(batch)])
        return np.concatenate(logits)

    return predict_logits
