"""Augmentation and normalisation of images, inside the compiled step.

Every random function takes one key per example, so what happens to an image does not
depend on its batch or on how the batch is split over devices. The
definitions are torchvision's; docs/models.md lists the differences.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from dal_jax.data import color, erasing, geometry
from dal_jax.errors import InputError

if TYPE_CHECKING:
    from dal_jax.config import AugmentationConfig


class Preprocess(NamedTuple):
    """Two pure functions from raw inputs to the network's inputs.

    Attributes:
      train: ``train(keys, inputs)``, with one key per example.
      evaluate: ``evaluate(inputs)``.
      description: JSON values from which the same can be done to new inputs.
    """

    train: Callable[[jax.Array, jax.Array], jax.Array]
    evaluate: Callable[[jax.Array], jax.Array]
    description: Mapping[str, Any] = MappingProxyType({})


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

    Raises:
      InputError: the number of values is neither one nor the number of channels.

    Example:
      >>> normalize(jnp.ones((1, 1, 2)), (0.5, 0.0), (0.5, 2.0)).ravel().tolist()
      [1.0, 0.5]
    """
    channels = images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise InputError(
                f"augmentation.{name} has {len(values)} numbers: expected one or "
                f"{channels}, one per channel; leave it empty to measure it"
            )
    scale = 1 / jnp.asarray(std, jnp.float32)
    return (images - jnp.asarray(mean, images.dtype)) * scale.astype(images.dtype)


def make_preprocess(
    config: AugmentationConfig,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: Any = jnp.float32,
) -> Preprocess:
    """Returns the functions from uint8 images to what the network is given.

    Training images are cropped with padding, cropped, flipped, cropped and resized,
    jittered in colour, normalised, and partly erased, each if the configuration asks
    for it. Images for evaluation are only normalised or, with ``random_resized_crop``,
    resized and cropped in the middle before; with ``random_crop`` only cropped.

    Args:
      config: which augmentations to apply to training images.
      mean: of each channel of the images in [0, 1].
      std: likewise.
      dtype: of the result; everything is computed in float32 and rounded at the end.

    Returns:
      A :class:`Preprocess`. ``keys`` are ``[batch]`` typed keys, one an example.

    Raises:
      InputError: a size, strength or probability out of range.

    Example:
      >>> from dal_jax.config import AugmentationConfig
      >>> preprocess = make_preprocess(AugmentationConfig(), (0.0,), (1.0,))
      >>> images = jnp.full((2, 4, 4, 1), 255, jnp.uint8)
      >>> float(preprocess.evaluate(images).max())
      1.0
    """
    padding, size = config.crop_padding, config.random_resized_crop
    if padding < 0 or (size is not None and size < 1):
        raise InputError(
            f"augmentation.crop_padding={padding}, random_resized_crop={size}: "
            f"expected at least 0 and at least 1 pixels; leave out what you do not want"
        )
    crop, erased = config.random_crop, config.random_erasing
    if crop is not None and (crop < 1 or size is not None):
        raise InputError(
            f"augmentation.random_crop={crop}, random_resized_crop={size}: expected "
            "one of them, at least 1 pixel; leave the other out"
        )
    if not 0 <= erased <= 1:
        raise InputError(
            f"augmentation.random_erasing={erased}: expected a probability, 0 to 1; "
            "change it"
        )
    strengths = color.check_strengths(config.color_jitter)

    def finish(images: jax.Array) -> jax.Array:
        return normalize(images, mean, std).astype(dtype)

    def evaluate(images: jax.Array) -> jax.Array:
        images = _to_unit(images)
        if size is not None:
            images = geometry.resize_and_center_crop(images, size)
        if crop is not None:
            images = geometry.center_crop(_large_enough(images, crop), crop)
        return finish(images)

    def train(keys: jax.Array, images: jax.Array) -> jax.Array:
        # What came later has draws of its own, and leaves the others' as they were.
        later = keys
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(keys)
        if padding:
            offsets = jax.vmap(lambda key: geometry.draw_crop(key, padding))(keys[:, 0])
            images = geometry.crop_with_padding(images, offsets, padding)
        if crop is not None:
            images = _large_enough(images, crop)
            draw = functools.partial(
                geometry.draw_offset, sides=images.shape[1:3], size=crop
            )
            images = geometry.crop(images, jax.vmap(draw)(_folded(later, 1)), crop)
        if config.flip:
            images = geometry.flip(images, jax.vmap(jax.random.bernoulli)(keys[:, 1]))
        images = _to_unit(images)
        if size is not None:
            sides = images.shape[1:3]
            boxes = jax.vmap(lambda key: geometry.draw_box(key, *sides))(keys[:, 2])
            images = geometry.resized_crop(images, boxes, size)
        if any(strengths):
            factors = jax.vmap(lambda key: color.draw(key, strengths))(keys[:, 3])
            images = jax.vmap(color.jitter)(images, factors)
        images = finish(images)
        if erased:
            draw = functools.partial(
                erasing.draw_erased, sides=images.shape[1:3], probability=erased
            )
            images = erasing.erase(images, jax.vmap(draw)(_folded(later, 2)))
        return images

    return Preprocess(train, evaluate, {"mean": list(mean), "std": list(std)})


def _folded(keys: jax.Array, number: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def _large_enough(images: jax.Array, size: int) -> jax.Array:
    if min(images.shape[1:3]) < size:
        height, width = images.shape[1:3]
        raise InputError(
            f"augmentation.random_crop={size} of images of {height}x{width}: expected "
            "at most their smaller side; set a smaller one, or dataset.image_size"
        )
    return images


def _to_unit(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) * (1 / 255)
