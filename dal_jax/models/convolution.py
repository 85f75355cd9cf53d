"""Two-dimensional convolution that is fast on every platform, inside loops too.

On the CPU, XLA runs a convolution through a fast library if it has one canonical form:
images ``NHWC``, and a kernel ``HWIO`` that is not reversed. The gradients that JAX
derives do not have that form, and inside ``scan`` or ``fori_loop`` XLA falls back to a
loop nest that is tens of times slower. Written by hand, both gradients are canonical
convolutions: the images' gradient is a convolution with the rotated kernel, and the
kernel's gradient is a convolution in which the batch takes the place of the channels,
summed over parts of the batch that fit the cache. GPU and TPU keep what JAX derives,
because their libraries recognise that form.

The price is that forward-mode differentiation (``jax.jvp``, ``jax.jacfwd``) with
respect to a convolution's arguments is refused. ``grad`` works, and so does ``grad`` of
``grad``.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# The size of a part of the batch in the kernel's gradient: about what a core's
# second-level cache holds.
_CHUNK_BYTES = 2**20
_CANONICAL = ("NHWC", "HWIO", "NHWC")


def convolution(images: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Correlates images with a square kernel of odd side, zero padded by half of it.

    Args:
      images: ``[batch, height, width, in_channels]``.
      kernel: ``[side, side, in_channels, out_channels]``, in the images' dtype.
      stride: distance between neighbouring outputs, in pixels.

    Returns:
      ``[batch, ceil(height / stride), ceil(width / stride), out_channels]``.

    Example:
      >>> ones = jnp.ones((1, 3, 3, 1))
      >>> convolution(ones, jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
      [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    if kernel.shape[:2] == (1, 1):
        return images[:, ::stride, ::stride] @ kernel[0, 0]
    # Inside shard_map a kernel that all devices share must first be made to vary like
    # the images; there its gradient is summed over the devices.
    kernel = kernel + jnp.zeros_like(images, shape=())
    return _convolution(images, kernel, stride)


def _correlate(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    half = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(stride, stride),
        padding=[(half, half)] * 2,
        dimension_numbers=_CANONICAL,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _correlate(images, kernel, stride)


def _forward(images: jax.Array, kernel: jax.Array, stride: int):
    return _correlate(images, kernel, stride), (images, kernel)


def _backward(stride: int, residuals: tuple[jax.Array, jax.Array], gradient: jax.Array):
    # Before jax 0.9 a constant arrives as an array of NumPy's kind.
    images, kernel = map(jnp.asarray, residuals)
    return lax.platform_dependent(
        images,
        kernel,
        gradient,
        cpu=functools.partial(_gradients_canonical, stride=stride),
        default=functools.partial(_gradients_derived, stride=stride),
    )


_convolution.defvjp(_forward, _backward)


def _gradients_derived(
    images: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int
) -> tuple[jax.Array, jax.Array]:
    correlate = functools.partial(_correlate, stride=stride)
    _, backward = jax.vjp(correlate, images, kernel)
    return backward(gradient)


def _gradients_canonical(
    images: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int
) -> tuple[jax.Array, jax.Array]:
    side = kernel.shape[0]
    half = side // 2
    # How far each image side reaches beyond the last output's centre.
    beyond = [
        size - 1 - stride * (outputs - 1)
        for size, outputs in zip(images.shape[1:3], gradient.shape[1:3], strict=True)
    ]
    turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
    images_gradient = lax.conv_general_dilated(
        gradient,
        turned,
        window_strides=(1, 1),
        padding=[(half, half + rest) for rest in beyond],
        lhs_dilation=(stride, stride),
        dimension_numbers=_CANONICAL,
    )

    def kernel_gradient(images: jax.Array, gradient: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            images.transpose(3, 1, 2, 0),
            gradient.transpose(1, 2, 0, 3),
            window_strides=(1, 1),
            padding=[(half, half - rest) for rest in beyond],
            rhs_dilation=(stride, stride),
            dimension_numbers=_CANONICAL,
        )

    total = _sum_over_chunks(kernel_gradient, images, gradient)
    return images_gradient, total.transpose(1, 2, 0, 3)


def _sum_over_chunks(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    images: jax.Array,
    gradient: jax.Array,
) -> jax.Array:
    """Sums ``function`` over parts of the batch that fit the cache of a core."""
    batch = images.shape[0]
    num_chunks = -(-(images.nbytes + gradient.nbytes) // _CHUNK_BYTES)
    num_chunks = next((n for n in range(num_chunks, batch) if batch % n == 0), batch)
    if num_chunks == 1:
        return function(images, gradient)

    def chunk(array: jax.Array, i: jax.Array | int) -> jax.Array:
        # Every num_chunks-th example: a batch split over devices stays where it is.
        array = array.reshape(batch // num_chunks, num_chunks, *array.shape[1:])
        return lax.dynamic_index_in_dim(array, i, axis=1, keepdims=False)

    def part(i: jax.Array | int) -> jax.Array:
        value = function(chunk(images, i), chunk(gradient, i))
        return value.astype(jnp.promote_types(value.dtype, jnp.float32))

    total = lax.fori_loop(1, num_chunks, lambda i, total: total + part(i), part(0))
    return total.astype(images.dtype)
