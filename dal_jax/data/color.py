"""Colour jitter: brightness, contrast, saturation and hue of one image.

The four changes and their ranges are those of torchvision's ``ColorJitter``. The order
is always this one; torchvision draws an order for every image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dal_jax.errors import InputError

# Luma of ITU-R BT.601, as in torchvision and Pillow.
_LUMA = (0.2989, 0.587, 0.114)


class Factors(NamedTuple):
    """What :func:`jitter` does to an image; (1, 1, 1, 0) leaves it as it is."""

    brightness: jax.Array | float
    contrast: jax.Array | float
    saturation: jax.Array | float
    hue: jax.Array | float


def check_strengths(strengths: Sequence[float]) -> tuple[float, ...]:
    """Returns brightness, contrast, saturation and hue, with zeros for what is missing.

    Raises:
      InputError: more than four, a negative one, or a hue above 0.5.

    Example:
      >>> check_strengths((0.4, 0.4))
      (0.4, 0.4, 0.0, 0.0)
    """
    filled = tuple([*map(float, strengths), 0.0, 0.0, 0.0, 0.0][:4])
    if len(strengths) > 4 or min(filled) < 0 or filled[-1] > 0.5:
        raise InputError(
            f"augmentation.color_jitter={tuple(strengths)}: expected up to four "
            f"strengths, none negative, hue at most 0.5; give them in the order "
            f"brightness, contrast, saturation, hue"
        )
    return filled


def draw(key: jax.Array, strengths: Sequence[float]) -> Factors:
    """Draws one example's factors.

    Brightness, contrast and saturation are uniform in ``[max(0, 1 - s), 1 + s]``, hue
    in ``[-s, s]``, for the strength ``s`` of each.

    Example:
      >>> draw(jax.random.key(0), (0.0, 0.0, 0.0, 0.0)).contrast.item()
      1.0
    """
    centers = (1.0, 1.0, 1.0, 0.0)
    uniform = jax.random.uniform(key, (4,))
    values = []
    for u, strength, center in zip(uniform, strengths, centers, strict=True):
        low = max(center - strength, 0.0) if center else -strength
        values.append(low + (center + strength - low) * u)
    return Factors(*values)


def jitter(image: jax.Array, factors: Factors) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, in this order.

    Args:
      image: ``[height, width, channels]`` in [0, 1], of one or three channels; a grey
        image has neither saturation nor hue.
      factors: of this image.

    Returns:
      As ``image``, in [0, 1].

    Example:
      >>> jitter(jnp.full((1, 1, 1), 0.25), Factors(2.0, 1.0, 1.0, 0.0)).item()
      0.5
    """
    image = _blend(image, jnp.zeros(()), factors.brightness)
    image = _blend(image, _gray(image).mean(), factors.contrast)
    if image.shape[-1] == 1:
        return image
    image = _blend(image, _gray(image), factors.saturation)
    return shift_hue(image, factors.hue)


def shift_hue(image: jax.Array, shift: jax.Array | float) -> jax.Array:
    """Turns the hue of an RGB image by ``shift`` of the full circle.

    Saturation and value of the HSV representation stay.

    Args:
      image: ``[..., 3]`` in [0, 1].
      shift: in [-0.5, 0.5].

    Returns:
      As ``image``.

    Example:
      >>> shift_hue(jnp.array([1.0, 0.0, 0.0]), 1 / 3).round(3).tolist()
      [0.0, 1.0, 0.0]
    """
    red, green, blue = (image[..., i] for i in range(3))
    value, low = image.max(axis=-1), image.min(axis=-1)
    chroma = value - low
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Not "value == red": a compiler may compute a channel twice, with other roundings.
    sector = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / divisor,
        jnp.where(
            green >= blue,
            2 + (blue - red) / divisor,
            4 + (red - green) / divisor,
        ),
    )
    sector = sector + 6 * shift
    # Each channel is a trapezium of the hue: high for two of six sectors.
    offsets = jnp.asarray((5.0, 3.0, 1.0), image.dtype)
    phase = jnp.mod(offsets + sector[..., None], 6)
    drop = jnp.clip(jnp.minimum(phase, 4 - phase), 0, 1)
    return value[..., None] - chroma[..., None] * drop


def _gray(image: jax.Array) -> jax.Array:
    if image.shape[-1] == 1:
        return image
    return (image * jnp.asarray(_LUMA, image.dtype)).sum(axis=-1, keepdims=True)


def _blend(image: jax.Array, other: jax.Array, factor: jax.Array | float) -> jax.Array:
    return jnp.clip(factor * image + (1 - factor) * other, 0, 1)
