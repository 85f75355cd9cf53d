"""Augmentation and normalisation of images, inside the compiled step.

Every random function takes one key per example, so what happens to an image does not
depend on the batch it is in nor on how the batch is split over devices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from dal_jax.training.config import AugmentationConfig


class Preprocess(NamedTuple):
    """``train(keys, images)`` and ``evaluate(images)``, from uint8 to network input."""

    train: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], jax.Array]


def normalize(
    images: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Subtracts the mean and divides by the standard deviation of each channel.

    Args:
      images: ``[..., channels]``, floating point, in [0, 1].
      mean: one number a channel, or a single one for all.
      std: as ``mean``, positive.

    Returns:
      ``(images - mean) / std``, in the dtype of ``images``.

    Example:
      >>> normalize(jnp.ones((1, 1, 2)), (0.5, 0.0), (0.5, 2.0)).ravel().tolist()
      [1.0, 0.5]
    """
    offset = jnp.asarray(mean, images.dtype)
    scale = 1.0 / jnp.asarray(std, jnp.float32)
    return (images - offset) * scale.astype(images.dtype)


def make_preprocess(
    config: AugmentationConfig,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Any = jnp.float32,
) -> Preprocess:
    """Returns the functions from uint8 images to what the network is given.

    Args:
      config: which augmentations to apply to training images.
      mean: of each channel of the images in [0, 1].
      std: likewise.
      dtype: of the result; everything is computed in float32 and rounded at the end.

    Returns:
      A :class:`Preprocess`. ``keys`` are ``[batch]`` typed keys, one an example.

    Example:
      >>> from dal_jax.training.config import AugmentationConfig
      >>> preprocess = make_preprocess(AugmentationConfig(), (0.0,), (1.0,))
      >>> images = jnp.full((2, 4, 4, 1), 255, jnp.uint8)
      >>> float(preprocess.evaluate(images).max())
      1.0
    """

    def evaluate(images: jax.Array) -> jax.Array:
        return normalize(_to_unit(images), mean, std).astype(dtype)

    def train(keys: jax.Array, images: jax.Array) -> jax.Array:
        del keys
        return evaluate(images)

    return Preprocess(train, evaluate)


def _to_unit(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) * (1 / 255)
