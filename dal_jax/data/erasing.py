"""Random erasing: a rectangle of each image is set to zero.

Zhong et al. (2020), "Random Erasing Data Augmentation", arXiv:1708.04896. As in
:mod:`dal_jax.data.geometry`, drawing and computing are separate.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dal_jax.data.geometry import ATTEMPTS, Box


def draw_erased(
    key: jax.Array,
    sides: Sequence[int],
    probability: float,
    *,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> Box:
    """Draws the part of one example that random erasing removes, which may be empty.

    With the given probability it is a rectangle. Its area is a uniform share of the
    image's in ``scale``, its ratio of height to width is log-uniform in ``ratio``, and
    its position is uniform. It must be smaller than the image in both directions: the
    first of ten attempts that is counts, and if none is, nothing is removed.

    Args:
      key: of the example.
      sides: height and width of the image.
      probability: of removing anything.
      scale: least and largest share of the area; torchvision's by default.
      ratio: least and largest ratio of height to width, likewise.

    Example:
      >>> box = draw_erased(jax.random.key(0), (32, 32), 1.0)
      >>> bool((box.height < 32) & (box.height > 0))
      True
    """
    height, width = sides
    key_erase, key_area, key_ratio, key_top, key_left = jax.random.split(key, 5)
    shape = (ATTEMPTS,)
    area = jax.random.uniform(key_area, shape, minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(
        key_ratio, shape, minval=math.log(ratio[0]), maxval=math.log(ratio[1])
    )
    pixels, aspect = area * (height * width), jnp.exp(log_ratio)
    heights = jnp.round(jnp.sqrt(pixels * aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(pixels / aspect)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    first = jnp.argmax(fits)
    erased = fits.any() & jax.random.bernoulli(key_erase, probability)
    box_height = jnp.where(erased, heights[first], 0)
    box_width = jnp.where(erased, widths[first], 0)
    return Box(
        jax.random.randint(key_top, (), 0, height - box_height + 1),
        jax.random.randint(key_left, (), 0, width - box_width + 1),
        box_height,
        box_width,
    )


def erase(images: jax.Array, boxes: Box) -> jax.Array:
    """Sets a box of each image ``[batch, height, width, channels]`` to zero.

    Example:
      >>> box = Box(*(jnp.array([n]) for n in (0, 1, 1, 1)))
      >>> erase(jnp.ones((1, 2, 2, 1)), box).ravel().tolist()
      [1.0, 0.0, 1.0, 1.0]
    """

    def inside(length: int, start: jax.Array, extent: jax.Array) -> jax.Array:
        places = jnp.arange(length)
        return (places >= start[:, None]) & (places < (start + extent)[:, None])

    rows = inside(images.shape[1], boxes.top, boxes.height)
    columns = inside(images.shape[2], boxes.left, boxes.width)
    erased = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(erased, 0, images)
