"""Random access to images that are decoded when they are asked for."""

import abc
import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from dal_jax.data.decode import UnreadableImage, decode
from dal_jax.data.split import ImageSource, Subset
from dal_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages(abc.ABC):
    """Images on disk, decoded at every access; an :class:`ImageSource`.

    Attributes:
      channels: 1 or 3, what every image is converted to.
      image_size: the side that every image is resized to; None keeps their size,
        which must then be the same for all.
    """

    channels: int
    image_size: int | None

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(self, positions: np.ndarray) -> Sequence[str | bytes | np.ndarray]:
        """Returns what :func:`decode` takes, for the images at some positions."""

    @abc.abstractmethod
    def name(self, position: int) -> str:
        """Returns what a user knows an image by, e.g. its path."""

    @abc.abstractmethod
    def fingerprint(self, positions: np.ndarray) -> str:
        """Returns a digest that changes with the bytes of the images at positions."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(H, W, C)`` of one image: of the first that decodes."""
        if self.image_size is not None:
            return (self.image_size, self.image_size, self.channels)
        return self._first_shape

    @functools.cached_property
    def _first_shape(self) -> tuple[int, ...]:
        for position in range(len(self)):
            try:
                return self.decode(self.read(np.array([position]))[0]).shape
            except UnreadableImage:
                continue
        raise InputError(
            f"none of {len(self)} images decodes, the first is {self.name(0)}: "
            "expected image files that Pillow reads; check the path"
        )

    def decode(self, encoded: str | bytes | np.ndarray) -> np.ndarray:
        """Returns the pixels of one image, see :func:`dal_jax.data.decode.decode`."""
        return decode(encoded, self.channels, self.image_size)

    def __getitem__(self, position: int) -> np.ndarray:
        return stack(self, np.array([position]))[0]


@dataclasses.dataclass(frozen=True, eq=False)
class FileImages(EncodedImages):
    """Image files by their paths."""

    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, positions: np.ndarray) -> list[str]:
        """Returns the paths: every file is opened only when it is decoded."""
        return [self.paths[position] for position in positions]

    def name(self, position: int) -> str:
        """Returns the path."""
        return self.paths[position]

    def fingerprint(self, positions: np.ndarray) -> str:
        """Returns a digest of the paths, sizes and times of change."""
        return fingerprint_of_files([self.paths[position] for position in positions])


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayImages(EncodedImages):
    """Pixels that are an array already, resized or converted at access.

    ``path`` is where the array is mapped from, if it is: worker processes then map
    it too instead of receiving a copy.
    """

    array: np.ndarray
    path: str | None = None

    def __len__(self) -> int:
        return len(self.array)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Returns the pixels."""
        return self.array[positions]

    def name(self, position: int) -> str:
        """Returns the position in the array."""
        return f"{self.path or 'images'}[{position}]"

    def fingerprint(self, positions: np.ndarray) -> str:
        """Returns a digest of the file if there is one, of the pixels otherwise."""
        if self.path is not None:
            return fingerprint_of_files([self.path])
        return hashlib.sha256(self.array.tobytes()).hexdigest()

    def __getstate__(self) -> dict:
        state = dict(vars(self))
        if self.path is not None:
            del state["array"]
        return state

    def __setstate__(self, state: dict):
        if "array" not in state:
            array = np.load(state["path"], mmap_mode="r", allow_pickle=False)
            state = {**state, "array": with_channel_axis(array)}
        vars(self).update(state)


def with_channel_axis(images: np.ndarray) -> np.ndarray:
    """Returns images ``[N, H, W]`` as ``[N, H, W, 1]``, others as they are."""
    return images[..., np.newaxis] if images.ndim == 3 else images


def fingerprint_of_files(paths: Sequence[str]) -> str:
    """Returns a digest of the paths, sizes and times of change of some files."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 (half the time, a million times)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        except OSError:
            digest.update(f"{path}\0missing\0".encode())
    return digest.hexdigest()


def stack(images: np.ndarray | ImageSource, positions: np.ndarray) -> np.ndarray:
    """Returns the images at some positions as one uint8 array ``[B, H, W, C]``.

    Args:
      images: the images of a split.
      positions: ints ``[B]``.

    Returns:
      The decoded images.

    Raises:
      InputError: if one does not decode or has another size; the line names it.

    Example:
      >>> images = np.arange(8, dtype=np.uint8).reshape(4, 1, 1, 2)
      >>> stack(images, np.array([2, 0])).tolist()
      [[[[4, 5]]], [[[0, 1]]]]
    """
    if isinstance(images, Subset):
        return stack(images.source, images.positions[positions])
    if isinstance(images, np.ndarray):
        return images[positions]
    if not isinstance(images, EncodedImages):
        return np.stack([images[position] for position in positions.tolist()])
    batch = np.empty((len(positions), *images.shape), np.uint8)
    for row, unreadable in decode_into(batch, images, positions):
        name = images.name(int(positions[row]))
        raise InputError(
            f"image {name} does not decode ({unreadable}): mend or remove it, or set "
            "dataset.on_unreadable=skip"
        )
    return batch


def decode_into(out: np.ndarray, images: EncodedImages, positions: np.ndarray):
    """Decodes images into the rows of ``out``; yields ``(row, error)`` of unreadable.

    Args:
      out: uint8 ``[B, H, W, C]``, written to.
      images: the source.
      positions: ints ``[B]``.

    Yields:
      The row and the :class:`UnreadableImage` of each image that does not decode.

    Raises:
      InputError: if an image has another size than the first of its source.
    """
    for row, encoded in enumerate(images.read(positions)):
        try:
            pixels = images.decode(encoded)
        except UnreadableImage as error:
            yield row, error
            continue
        if pixels.shape != out.shape[1:]:
            (height, width), (first_height, first_width) = (
                pixels.shape[:2],
                out.shape[1:3],
            )
            raise InputError(
                f"image {images.name(int(positions[row]))} is {width} x {height} "
                f"pixels, others are {first_width} x {first_height}: set "
                "dataset.image_size to give all one size"
            )
        out[row] = pixels
