"""What a network makes of its inputs before its last layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def feature_function(module: Any) -> Callable[[jax.Array], jax.Array]:
    """Returns a network's ``features(inputs) -> [N, D]``, compiled.

    Args:
      module: a network of :func:`dal_jax.models.create`, which is evaluated (batch norm
        with its running statistics, no dropout).

    Returns:
      A function whose results are float32.

    Example:
      >>> from dal_jax.models import create
      >>> network = create("mlp", image_shape=(4, 4, 1), num_classes=3, hidden=(8,),
      ...                  rngs=nnx.Rngs(0))
      >>> feature_function(network)(jnp.zeros((2, 4, 4, 1))).shape
      (2, 8)
    """
    graph, state = nnx.split(module)

    @jax.jit
    def of_state(state: Any, inputs: jax.Array) -> jax.Array:
        network: Any = nnx.merge(graph, state, copy=True)
        return network.features(inputs, train=False).astype(jnp.float32)

    return lambda inputs: of_state(state, inputs)
