"""Crops, flips and resizing of a batch of images.

Drawing and computing are separate: ``draw_*`` returns the random numbers of one example
from its key, and the other functions are deterministic. The definitions are
torchvision's; docs/models.md lists the differences.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

# Images for evaluation are first resized to this many times the centre crop.
_EVALUATION_MARGIN = 256 / 224
ATTEMPTS = 10  # to draw a box that fits


class Box(NamedTuple):
    """Part of an image, in whole pixels."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def crop_with_padding(images: jax.Array, offsets: jax.Array, padding: int) -> jax.Array:
    """Pads with zeros on all sides, then cuts out the original size.

    Args:
      images: ``[batch, height, width, channels]``.
      offsets: int ``[batch, 2]``, row and column of the cut, in [0, 2 * padding].
      padding: pixels added on each side.

    Returns:
      As ``images``.

    Example:
      >>> image = jnp.arange(1, 5).reshape(1, 2, 2, 1)
      >>> crop_with_padding(image, jnp.array([[0, 1]]), 1)[0, :, :, 0].tolist()
      [[0, 0], [1, 2]]
    """
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*offset, 0), images.shape[1:])

    return jax.vmap(cut)(padded, offsets)


def draw_crop(key: jax.Array, padding: int) -> jax.Array:
    """Draws one example's offset for :func:`crop_with_padding`, uniformly."""
    return jax.random.randint(key, (2,), 0, 2 * padding + 1)


def crop(images: jax.Array, offsets: jax.Array, size: int) -> jax.Array:
    """Cuts a square out of each image.

    Args:
      images: ``[batch, height, width, channels]``.
      offsets: int ``[batch, 2]``, row and column of the first pixel.
      size: side of the result.

    Example:
      >>> image = jnp.arange(4).reshape(1, 2, 2, 1)
      >>> crop(image, jnp.array([[1, 0]]), 1).item()
      2
    """

    def cut(image: jax.Array, offset: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*offset, 0), (size, size, image.shape[-1]))

    return jax.vmap(cut)(images, offsets)


def draw_offset(key: jax.Array, sides: Sequence[int], size: int) -> jax.Array:
    """Draws one example's offset for :func:`crop`, uniformly; sides of the image."""
    return jax.random.randint(key, (2,), 0, jnp.array(sides) - size + 1)


def center_crop(images: jax.Array, size: int) -> jax.Array:
    """Cuts the square out of the middle of images.

    Example:
      >>> center_crop(jnp.arange(9).reshape(1, 3, 3, 1), 1).item()
      4
    """
    top, left = (round((side - size) / 2) for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def flip(images: jax.Array, flipped: jax.Array) -> jax.Array:
    """Mirrors the images ``[batch, height, width, channels]`` that ``flipped`` marks.

    Example:
      >>> image = jnp.arange(2).reshape(1, 1, 2, 1)
      >>> flip(image, jnp.array([True])).ravel().tolist()
      [1, 0]
    """
    return jnp.where(flipped[:, None, None, None], images[:, :, ::-1], images)


def draw_box(
    key: jax.Array,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Draws one example's part of the image for a random resized crop.

    The area is a uniform share of the image's in ``scale``, the ratio of width to
    height is log-uniform in ``ratio``, and the position is uniform among those that
    fit. The first of ten attempts that fits is used. If none fits, the box is the
    largest one in the middle whose ratio is in the range.

    Args:
      key: a single key.
      height: of the image, in pixels.
      width: likewise.
      scale: lowest and highest share of the area, in (0, 1].
      ratio: lowest and highest ratio of width to height, positive.

    Returns:
      The box, as int32 scalars.

    Example:
      >>> box = draw_box(jax.random.key(0), 32, 32)
      >>> bool(box.top + box.height <= 32)
      True
    """
    key_area, key_ratio, key_top, key_left = jax.random.split(key, 4)
    shape = (ATTEMPTS,)
    area = jax.random.uniform(key_area, shape, minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(
        key_ratio, shape, minval=math.log(ratio[0]), maxval=math.log(ratio[1])
    )
    pixels, aspect = area * (height * width), jnp.exp(log_ratio)
    widths = jnp.round(jnp.sqrt(pixels * aspect)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(pixels / aspect)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = jnp.argmax(fits)
    box_height, box_width = heights[first], widths[first]
    drawn = Box(
        jax.random.randint(key_top, (), 0, height - box_height + 1),
        jax.random.randint(key_left, (), 0, width - box_width + 1),
        box_height,
        box_width,
    )
    clipped = min(max(width / height, ratio[0]), ratio[1])
    middle_height = min(height, round(width / clipped))
    middle_width = min(width, round(height * clipped))
    middle = Box(
        *map(
            jnp.int32,
            (
                (height - middle_height) // 2,
                (width - middle_width) // 2,
                middle_height,
                middle_width,
            ),
        )
    )
    return jax.tree.map(lambda a, b: jnp.where(fits.any(), a, b), drawn, middle)


def resized_crop(images: jax.Array, boxes: Box, size: int) -> jax.Array:
    """Cuts a box out of each image and resizes it to a square.

    Bilinear with antialiasing: if the image shrinks, the triangular filter is as wide
    as an output pixel. Pixels outside the box do not count.

    Args:
      images: ``[batch, height, width, channels]``, floating point.
      boxes: one an image, ``[batch]`` each.
      size: side of the result.

    Returns:
      ``[batch, size, size, channels]``, in the dtype of ``images``.

    Example:
      >>> box = Box(*(jnp.array([n]) for n in (0, 0, 2, 2)))
      >>> resized_crop(jnp.arange(4.0).reshape(1, 2, 2, 1), box, 1).item()
      1.5
    """
    weights = jax.vmap(_triangle_weights, (0, 0, 0, 0, None, None))
    rows, columns = (
        weights(start, length, start, start + length, total, size)
        for start, length, total in (
            (boxes.top, boxes.height, images.shape[1]),
            (boxes.left, boxes.width, images.shape[2]),
        )
    )
    return _resample(images, rows, columns)


def resize_and_center_crop(images: jax.Array, size: int) -> jax.Array:
    """Resizes the shorter side to 8/7 of ``size`` and cuts a square from the middle.

    Evaluation uses this if training uses random resized crops; for 224 it gives the
    usual 256 and 224. Bilinear with antialiasing, like :func:`resized_crop`.

    Args:
      images: ``[batch, height, width, channels]``, floating point.
      size: side of the result.

    Returns:
      ``[batch, size, size, channels]``, in the dtype of ``images``.

    Example:
      >>> resize_and_center_crop(jnp.ones((1, 48, 64, 3)), 28).shape
      (1, 28, 28, 3)
    """
    shorter = round(size * _EVALUATION_MARGIN)

    def weights(total: int) -> jax.Array:
        resized = int(shorter * total / min(images.shape[1:3]))
        offset, pixel = round((resized - size) / 2), total / resized
        matrix = _triangle_weights(offset * pixel, size * pixel, 0, total, total, size)
        return jnp.broadcast_to(matrix, (images.shape[0], *matrix.shape))

    return _resample(images, weights(images.shape[1]), weights(images.shape[2]))


def _triangle_weights(start, length, low, high, total: int, size: int) -> jax.Array:
    """Weights ``[size, total]`` that resample ``[start, start + length)`` to ``size``.

    Pixels outside ``[low, high)`` have none; every row sums to one.
    """
    pixel = length / size
    centers = start + (jnp.arange(size) + 0.5) * pixel
    positions = jnp.arange(total)
    distance = jnp.abs(positions + 0.5 - centers[:, None]) / jnp.maximum(pixel, 1.0)
    inside = (positions >= low) & (positions < high)
    weights = jnp.where(inside, jnp.maximum(1 - distance, 0), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _resample(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    batch, height, width, channels = images.shape
    dtype, highest = images.dtype, lax.Precision.HIGHEST
    # Two matrix products an image: fast everywhere, unlike a gather of pixels.
    flat = images.reshape(batch, height, width * channels)
    flat = jnp.matmul(rows.astype(dtype), flat, precision=highest)
    images = flat.reshape(batch, -1, width, channels)
    return jnp.einsum(
        "bxw,bywc->byxc", columns.astype(dtype), images, precision=highest
    )
