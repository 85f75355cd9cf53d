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
# torchvision's ResNets: kaiming_normal over the outgoing connections, variance
# 2 / fan_out. (Batch norm starts at scale 1 and bias 0 everywhere.)
HE_FAN_OUT = Initialization(
    initializers.variance_scaling(2.0, "fan_out", "normal"), _zero_bias
)


class Linear(nnx.Module):
    """``x @ kernel + bias`` over the last axis.

    ``out_dtype`` is the result's type and that of the sums that lead to it: the layer
    of the logits multiplies in ``dtype`` and gives float32.
    """

    kernel: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dtype: Any = jnp.float32,
        out_dtype: Any = None,
        initialization: Initialization = LECUN,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.out_dtype: Any = out_dtype or dtype
        self.kernel = nnx.Param(
            initialization.kernel(rngs.params(), (in_features, out_features))
        )
        self.bias = nnx.Param(
            initialization.bias(in_features)(rngs.params(), (out_features,))
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., in_features]`` to ``[..., out_features]``."""
        y = jnp.matmul(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            preferred_element_type=self.out_dtype,
        )
        return y + self.bias[...].astype(self.out_dtype)


class Convolution(nnx.Module):
    """A square convolution of odd side, zero padded by half of it."""

    kernel: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array] | None

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


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, as PyTorch's.

    Training: ``scale * (x - mean) / sqrt(var + epsilon) + bias`` with the batch's mean
    and (biased) variance, over every device where ``axis_name`` is given. The running
    statistics move by ``running = momentum * running + (1 - momentum) * batch`` with
    the unbiased variance; ``momentum`` 0.9 is what PyTorch calls 0.1. Evaluation uses
    the running statistics. All of it is computed in float32 and rounded to ``dtype``
    at the end. (Ioffe and Szegedy 2015, arXiv 1502.03167.)
    """

    scale: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]
    mean: nnx.BatchStat[jax.Array]
    var: nnx.BatchStat[jax.Array]

    def __init__(
        self,
        features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        dtype: Any = jnp.float32,
        axis_name: str | None = None,
    ):
        self.momentum = momentum
        self.epsilon = epsilon
        self.dtype = dtype
        self.axis_name = axis_name
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises ``[..., features]``."""
        x = x.astype(jnp.float32)
        mean, var = self._batch_statistics(x) if train else (self.mean, self.var)
        factor = self.scale[...] * jax.lax.rsqrt(var[...] + self.epsilon)
        return ((x - mean[...]) * factor + self.bias[...]).astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # One pass over x for both moments. Taken around the running mean, the square
        # of the mean is small and its subtraction costs no precision.
        shift = self.mean[...]
        axes = tuple(range(x.ndim - 1))
        count = jnp.asarray(x.size // x.shape[-1], jnp.float32)
        moments = (x - shift).mean(axes), jnp.square(x - shift).mean(axes)
        if self.axis_name is not None:
            moments = jax.lax.pmean(moments, self.axis_name)
            count = jax.lax.psum(count, self.axis_name)
        first, second = moments
        var = jnp.maximum(second - jnp.square(first), 0)
        unbiased = var * (count / jnp.maximum(count - 1, 1))
        keep = self.momentum
        mean = shift + first
        self.mean[...] = keep * shift + (1 - keep) * jax.lax.stop_gradient(mean)
        self.var[...] = keep * self.var[...] + (1 - keep) * jax.lax.stop_gradient(
            unbiased
        )
        return mean, var


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis.

    ``scale * (x - mean) / sqrt(var + epsilon) + bias`` with the mean and the (biased)
    variance of each example's features, in float32 and rounded to ``dtype`` at the
    end. (Ba, Kiros and Hinton 2016, arXiv 1607.06450.)
    """

    scale: nnx.Param[jax.Array]
    bias: nnx.Param[jax.Array]

    def __init__(
        self, features: int, *, epsilon: float = 1e-6, dtype: Any = jnp.float32
    ):
        self.epsilon = epsilon
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises ``[..., features]``."""
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        factor = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return (x * factor * self.scale[...] + self.bias[...]).astype(self.dtype)


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2x2 pixels; an odd last row or column is dropped.

    Written as maxima of neighbours because the gradient of XLA's windowed maximum is
    slow on the CPU, and that of a maximum over reshaped axes twice as slow as this.

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
    top = jnp.maximum(x[:, :, 0, :, 0], x[:, :, 0, :, 1])
    bottom = jnp.maximum(x[:, :, 1, :, 0], x[:, :, 1, :, 1])
    return jnp.maximum(top, bottom)


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 3x3 pixels at a distance of two, as in ResNet's stem.

    The image is extended by one pixel that never wins. Built from two rounds of
    neighbours, rows and columns, for the reason given at :func:`max_pool`.

    Args:
      x: ``[batch, height, width, channels]``.

    Returns:
      ``[batch, ceil(height / 2), ceil(width / 2), channels]``.

    Example:
      >>> overlapping_max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1)).ravel().tolist()
      [5.0, 7.0, 13.0, 15.0]
    """
    for axis in (1, 2):
        low = jnp.asarray(-jnp.inf, x.dtype)
        padding = [(0, 0, 0)] * x.ndim
        padding[axis] = (1, x.shape[axis] % 2, 0)
        padded = jax.lax.pad(x, low, padding)

        def every_other(start: int, padded=padded, axis=axis) -> jax.Array:
            stop = padded.shape[axis] - 2 + start
            return jax.lax.slice_in_dim(padded, start, stop, stride=2, axis=axis)

        x = jnp.maximum(
            jnp.maximum(every_other(0), every_other(1)),
            every_other(2),
        )
    return x
