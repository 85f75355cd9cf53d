"""A multilayer perceptron over the pixels."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dal_jax.models.layers import Linear


class MLP(nnx.Module):
    """Dense layers of ``hidden`` units with ReLU, then the logits."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        hidden: Sequence[int] = (128,),
        dtype: Any = jnp.float32,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        del axis_name  # nothing here looks at the batch
        height, width, channels = image_shape
        features = (height * width * channels, *hidden)
        self.dense = nnx.Dict(
            {
                f"dense{i}": Linear(*sizes, dtype=dtype, rngs=rngs)
                for i, sizes in enumerate(itertools.pairwise(features))
            }
        )
        self.head = Linear(
            features[-1],
            num_classes,
            dtype=dtype,
            out_dtype=jnp.float32,
            rngs=rngs,
        )

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[batch, height, width, channels]`` to float32 logits."""
        x = images.reshape(images.shape[0], -1)
        for layer in self.dense.values():
            x = jax.nn.relu(layer(x))
        return self.head(x)
