"""Images at a path, each with a name, and with labels where the path tells them."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dal_jax.data.images import (
    ArrayImages,
    EncodedImages,
    FileImages,
    with_channel_axis,
)
from dal_jax.data.unlabelled import find
from dal_jax.errors import InputError


class NamedImages(NamedTuple):
    """Images that are decoded on access.

    Attributes:
      names: one an image, see :class:`dal_jax.data.unlabelled.Unlabelled`.
      images: the source.
      labels: by column, ``label`` and perhaps ``clean_label``, a text an image; empty
        where none are known.
    """

    names: Sequence[str]
    images: EncodedImages
    labels: dict[str, Sequence[str]]


def named_images(path: str, channels: int, image_size: int) -> NamedImages:
    """Returns the images at a path.

    The directory below a folder in which each image lies is its label, and so are the
    columns ``label`` and ``clean_label`` of a list.

    Args:
      path: as for :func:`dal_jax.data.unlabelled.find`.
      channels: 1 or 3; every image is converted to this.
      image_size: the side to which every image is scaled and cropped.

    Raises:
      InputError: there is nothing, or no images.
    """
    found = find(path)
    if isinstance(found.inputs, np.ndarray):
        pixels = found.inputs
        if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
            raise InputError(
                f"{path} holds {pixels.dtype} {list(pixels.shape)}: expected uint8 "
                "images [N, H, W] or [N, H, W, C]; convert them"
            )
        array = with_channel_axis(pixels)
        return NamedImages(found.names, ArrayImages(channels, image_size, array), {})
    images = FileImages(channels, image_size, tuple(found.inputs))
    return NamedImages(found.names, images, _labels(Path(path), found.names))


def _labels(path: Path, names: Sequence[str]) -> dict[str, Sequence[str]]:
    path = path.expanduser()
    if path.suffix.lower() == ".csv" and path.is_file():
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return {
            column: [row[column] or "" for row in rows]
            for column in ("label", "clean_label")
            if column in rows[0]
        }
    parts = [name.split(os.sep, 1) for name in names]
    if path.is_dir() and all(len(part) == 2 for part in parts):
        return {"label": [part[0] for part in parts]}
    return {}
