"""A multilayer perceptron, and a linear model."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dal_jax.errors import InputError
from dal_jax.models.layers import LayerNorm, Linear


class MLP(nnx.Module):
    """Dense layers of ``hidden`` units with ReLU, then the logits.

    With ``layer_norm`` the hidden units of a layer are normalised before the ReLU;
    ``dropout`` is the share of hidden units that a training step leaves out.
    """

    dense: nnx.Dict[Linear]
    norms: nnx.Dict[LayerNorm]
    dropout: nnx.Dropout | None
    head: Linear

    def __init__(
        self,
        *,
        image_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (128,),
        layer_norm: bool = False,
        dropout: float = 0.0,
        dtype: Any = jnp.float32,
        axis_name: str | None = None,
        rngs: nnx.Rngs,
    ):
        del axis_name  # nothing here looks at the batch
        if not 0 <= dropout < 1:
            raise InputError(f"model.dropout is {dropout}: expected 0 <= dropout < 1")
        self.layer_norm = layer_norm
        features = (math.prod(image_shape), *hidden)
        self.dense = nnx.Dict(
            {
                f"dense{i}": Linear(*sizes, dtype=dtype, rngs=rngs)
                for i, sizes in enumerate(itertools.pairwise(features))
            }
        )
        self.norms = nnx.Dict(
            {
                f"norm{i}": LayerNorm(size, dtype=dtype)
                for i, size in enumerate(hidden if layer_norm else ())
            }
        )
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.head = Linear(
            features[-1],
            num_classes,
            dtype=dtype,
            out_dtype=jnp.float32,
            rngs=rngs,
        )

    def features(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps inputs to what the last layer classifies, ``[batch, n]``."""
        x = inputs.reshape(inputs.shape[0], -1)
        for i in range(len(self.dense)):
            x = self.dense[f"dense{i}"](x)
            if self.layer_norm:
                x = self.norms[f"norm{i}"](x)
            x = jax.nn.relu(x)
            if self.dropout is not None:
                x = self.dropout(x, deterministic=not train)
        return x

    def __call__(self, inputs: jax.Array, train: bool = False) -> jax.Array:
        """Maps inputs ``[batch, ...]`` to float32 logits."""
        return self.head(self.features(inputs, train))


def linear(**common: Any) -> MLP:
    """The logits as a linear function of the inputs."""
    return MLP(hidden=(), **common)
