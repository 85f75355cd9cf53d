"""Random access to images that are decoded on access."""

import abc
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from dal_jax.data.blocks import release
from dal_jax.data.decode import OtherSize, UnreadableImage, decode, decode_rows
from dal_jax.data.split import InputSource, Subset
from dal_jax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedImages(abc.ABC):
    """Images on disk, decoded at every access; an :class:`InputSource`.

    Attributes:
      channels: 1 or 3; every image is converted to this.
      image_size: the side to which every image is resized; None keeps their size, which
        must then be the same for all.
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
        """Returns the name by which a user knows an image, e.g. its path."""

    @abc.abstractmethod
    def fingerprint(self, positions: np.ndarray) -> str:
        """Returns a digest that changes with the bytes of the images at positions."""

    @property
    def dtype(self) -> np.dtype:
        """The dtype of an image, uint8."""
        return np.dtype(np.uint8)

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
                encoded = self.read(np.array([position]))[0]
                return decode(encoded, self.channels, self.image_size).shape
            except UnreadableImage:
                continue
        raise InputError(
            f"none of {len(self)} images decodes, the first is {self.name(0)}: "
            "expected image files that Pillow reads; check the path"
        )

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

    ``path`` is where the array is mapped from, if it is.
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


# A side that images may be scaled to: what is longer is a slip of the finger.
MOST_PIXELS = 2**14


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
        except (OSError, ValueError):  # such as a path with a zero byte
            digest.update(f"{path}\0missing\0".encode())
    return digest.hexdigest()


def stack(inputs: np.ndarray | InputSource, positions: np.ndarray) -> np.ndarray:
    """Returns the inputs at some positions as one array ``[B, ...]``.

    Args:
      inputs: those of a split; images are decoded.
      positions: ints ``[B]``.

    Returns:
      The inputs, in the order of the positions.

    Raises:
      InputError: if one does not decode or has another size; the line names it.

    Example:
      >>> inputs = np.arange(8, dtype=np.uint8).reshape(4, 1, 1, 2)
      >>> stack(inputs, np.array([2, 0])).tolist()
      [[[[4, 5]]], [[[0, 1]]]]
    """
    if isinstance(inputs, Subset):
        return stack(inputs.source, inputs.positions[positions])
    if isinstance(inputs, np.ndarray):
        rows = inputs[positions]
        release(inputs)
        return rows
    if not isinstance(inputs, EncodedImages):
        return np.stack([inputs[position] for position in positions.tolist()])
    batch = np.empty((len(positions), *inputs.shape), np.uint8)
    for row, error in decode_into(batch, inputs, positions):
        raise InputError(
            f"image {inputs.name(int(positions[row]))} does not decode ({error}): fix "
            "or remove it, or set dataset.on_unreadable=skip"
        )
    return batch


def decode_into(
    out: np.ndarray, images: EncodedImages, positions: np.ndarray
) -> Iterator[tuple[int, UnreadableImage]]:
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
    encoded = images.read(positions)
    for row, error in decode_rows(out, encoded, images.channels, images.image_size):
        if isinstance(error, OtherSize):
            raise _other_size(images, images.name(int(positions[row])), error)
        yield row, error


def _other_size(images: EncodedImages, name: str, size: OtherSize) -> InputError:
    height, width, _ = images.shape
    return InputError(
        f"image {name} is {size} pixels, others are {width} x {height}: set "
        "dataset.image_size to give all one size"
    )
