"""The layers that the networks are made of.

Parameters are float32; each layer casts them, and its input, to the ``dtype`` that it
computes in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers

from dal_jax.models.convolution import convolution

Initializer = Callable[..., jax.Array]


class Initialization(NamedTuple):
    """How a layer's parameters start: ``kernel``, and ``bias(fan_in)``."""

    kernel: Initializer
    bias: Callable[[int], Initializer]


def _uniform_bias(fan_in: int) -> Initializer:
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _zero_bias(fan_in: int) -> Initializer:
    del fan_in
    return initializers.zeros


# Variance 1 / fan_in and no bias: what Flax's own layers do.
LECUN = Initialization(initializers.lecun_normal(), _zero_bias)
# PyTorch's layers, kaiming_uniform with a = sqrt(5): kernel and bias both uniform
# within 1 / sqrt(fan_in), that is of variance 1 / (3 fan_in).
TORCH = Initialization(
    initializers.variance_scaling(1 / 3, "fan_in", "uniform"), _uniform_bias
)


class Linear(nnx.Module):
    """``x @ kernel + bias`` over the last axis."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: Any = jnp.float32,
        initialization: Initialization = LECUN,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.kernel = nnx.Param(
            initialization.kernel(rngs.params(), (in_features, out_features))
        )
        self.bias = nnx.Param(
            initialization.bias(in_features)(rngs.params(), (out_features,))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., in_features]`` to ``[..., out_features]``."""
        kernel, bias = self.kernel[...], self.bias[...]
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(
            self.dtype
        )


class Convolution(nnx.Module):
    """A square convolution of odd side, zero padded by half of it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        side: int = 3,
        *,
        stride: int = 1,
        use_bias: bool = False,
        dtype: Any = jnp.float32,
        initialization: Initialization = LECUN,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.dtype = dtype
        shape = (side, side, in_channels, out_channels)
        self.kernel = nnx.Param(initialization.kernel(rngs.params(), shape))
        bias = initialization.bias(side * side * in_channels)
        self.bias = (
            nnx.Param(bias(rngs.params(), (out_channels,))) if use_bias else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, height, width, in_channels]`` to ``[..., out_channels]``."""
        kernel = self.kernel[...].astype(self.dtype)
        y = convolution(x.astype(self.dtype), kernel, self.stride)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels; an odd last row or column is dropped.

    Written as a reshape because the gradient of XLA's windowed maximum is slow on the
    CPU.

    Args:
      x: ``[batch, height, width, channels]``.

    Returns:
      ``[batch, height // 2, width // 2, channels]``.

    Example:
      >>> max_pool(jnp.arange(8.0).reshape(1, 2, 4, 1)).ravel().tolist()
      [5.0, 7.0]
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.max(axis=(2, 4))
